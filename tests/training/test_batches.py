"""Order, position and conversion of batches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

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
        assert torch.equal(stream.next().label, batch.label)
    stream.close()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


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
