"""Order, position and conversion of batches."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from fastgan.data import load
from fastgan.training import rng
from fastgan.training.batches import BatchStream

from .stubs import Fast, Images, Noisy


def indices(stream: BatchStream, count: int) -> list[list[int]]:
    return [stream.next().index.tolist() for _ in range(count)]


def test_every_epoch_is_another_permutation_without_its_last_incomplete_batch() -> None:
    stream = BatchStream(Images(20), 6, seed=1)
    first, second = sum(indices(stream, 3), []), sum(indices(stream, 3), [])
    assert len(set(first)) == 18 and len(set(second)) == 18
    assert first != second
    assert stream.position == 6 and stream.epoch == 2.0


def test_seed_and_epoch_alone_decide_the_order() -> None:
    whole = indices(BatchStream(Images(20), 6, seed=1), 8)
    assert whole == indices(BatchStream(Images(20), 6, seed=1), 8)
    assert whole != indices(BatchStream(Images(20), 6, seed=2), 8)
    for position in (1, 3, 5):
        stream = BatchStream(Images(20), 6, seed=1)
        stream.position = position
        assert indices(stream, 8 - position) == whole[position:]


def test_a_small_data_set_is_one_batch() -> None:
    stream = BatchStream(Images(5), 6)
    assert sorted(stream.next().index.tolist()) == [0, 1, 2, 3, 4]
    assert stream.batches_per_epoch == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_depend_on_the_position_alone(workers: int) -> None:
    expected = BatchStream(Noisy(20), 6, seed=1)
    expected = [expected.next() for _ in range(5)]
    torch.manual_seed(77)
    random.seed(77)
    np.random.seed(77)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    stream = BatchStream(Noisy(20), 6, seed=1, num_workers=workers)
    stream.position = 1
    for batch in expected[1:]:
        assert torch.equal(stream.next().state, batch.state)
    stream.close()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


def test_random_transforms_of_an_item_depend_on_seed_epoch_and_index_alone() -> None:
    def drawn(seed: int, batch_size: int, epochs: int = 1) -> dict[int, float]:
        """What item i drew in the last of the epochs, in which all 20 come."""
        stream = BatchStream(Noisy(20), batch_size, seed=seed)
        batches = [stream.next() for _ in range(epochs * 20 // batch_size)][-20 // batch_size :]
        return {
            i: x for batch in batches for i, x in zip(batch.index.tolist(), batch.state.flatten().tolist(), strict=True)
        }

    first = drawn(1, 5)
    assert len(set(first.values())) == 20
    assert first == drawn(1, 2)
    assert not set(first.values()) & set(drawn(2, 5).values())
    assert not set(first.values()) & set(drawn(1, 5, epochs=2).values())


def test_set_epoch_comes_before_each_epoch() -> None:
    data = Images(20)
    indices(BatchStream(data, 6), 7)
    assert data.epochs == [0, 1, 2]


def test_uint8_becomes_float_in_minus_one_to_one() -> None:
    batch = BatchStream(Images(20), 6).next()
    assert batch.image.dtype == torch.float32 and batch.label.dtype == torch.int64
    expected = Images(20).images[batch.index].double() / 127.5 - 1
    torch.testing.assert_close(batch.image.double(), expected, atol=1e-6, rtol=0)


def test_whole_batches_where_the_data_set_has_them() -> None:
    batch = BatchStream(Fast(20), 6).next()
    assert torch.equal(batch.image, Images(20).images[batch.index].float() / 127.5 - 1)


class Pure(Fast):
    """Promises to draw nothing; notes the threads that read it."""

    draws_random = False

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.threads: list[str] = []

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        self.threads.append(threading.current_thread().name)
        if 13 in indices and self.broken:
            raise OSError("item 13 is gone")
        return super().batch(indices)

    broken = False


@pytest.mark.parametrize("count", [20, 6, 13])
def test_a_thread_reads_the_same_batches_ahead(count: int) -> None:
    expected = BatchStream(Pure(count), 6, seed=1)
    data = Pure(count)
    stream = BatchStream(data, 6, seed=1)
    stream.by_thread = True  # as it is where training is on a GPU
    for _ in range(7):
        assert torch.equal(stream.next().image, expected.next().image)
    assert {name.split("_")[0] for name in data.threads} == {"fastgan-data"}
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastgan-data")]
    stream.position = 1
    again = BatchStream(Pure(count), 6, seed=1)
    again.position = 1
    assert torch.equal(stream.next().index, again.next().index)
    stream.close()


def test_an_error_of_the_thread_comes_with_its_batch() -> None:
    data = Pure(20)
    data.broken = True
    stream = BatchStream(data, 1, seed=1)
    stream.by_thread = True
    with pytest.raises(OSError, match="item 13 is gone"):
        for _ in range(20):
            seen = stream.next().index.item()
            assert seen != 13
    stream.close()


def test_only_who_promises_is_read_by_a_thread() -> None:
    cuda = torch.device("cuda")
    assert BatchStream(Pure(6), 2, device=cuda).by_thread
    assert not BatchStream(Pure(6), 2).by_thread
    assert not BatchStream(Pure(6), 2, device=cuda, num_workers=1).by_thread
    assert not BatchStream(Fast(6), 2, device=cuda).by_thread
    assert BatchStream(load("scenes", size=6), 2, device=cuda).by_thread


def test_who_promises_leaves_the_generators_alone() -> None:
    before = rng.get_state()
    BatchStream(Pure(6), 2).next()
    assert rng.equal(before, rng.get_state())


def test_first_does_not_move_the_position() -> None:
    stream = BatchStream(Images(5), 2)
    assert stream.first(9).index.tolist() == [0, 1, 2, 3, 4]
    assert stream.position == 0


class Items(list):
    """A data set of given items."""


IMAGE = torch.zeros(1, 4, 4)


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(torch.zeros(8, 1, 4, 4)),
        TensorDataset(torch.zeros(8, 1, 4, 4), torch.arange(8, dtype=torch.int32)),
        Items([IMAGE] * 8),
        Items([(IMAGE, 3)] * 8),
        Items([(np.zeros((1, 4, 4)), np.float64(0.5))] * 8),
    ],
)
def test_foreign_data_sets(data: object) -> None:
    batch = BatchStream(data, 4).next()
    assert batch.image.shape == (4, 1, 4, 4) and batch.image.dtype == torch.float32
    assert batch.label is None or batch.label.dtype in (torch.int64, torch.float32)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Items(), ValueError, "data is empty"),
        (iter([1]), TypeError, "map-style data set"),
        (Items([(IMAGE, 1, 2)]), TypeError, "item has 3 parts; give a dict named as Batch fields: image"),
        (Items([{"image": IMAGE, "mask": IMAGE}]), ValueError, "'mask', which is no field of Batch: image, label"),
        (Items([{"image": "cat.png"}]), TypeError, "'image' as a str; it takes a tensor, an array or a number"),
        (
            Items([IMAGE, torch.zeros(1, 5, 4)]),
            ValueError,
            r"'image' of item . has shape .* items of one data set share",
        ),
    ],
)
def test_bad_data(data: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BatchStream(data, 2).next()
