"""The cache behind every data set, and `load`'s own answers."""

import pickle

import pytest
import torch

from fastgan.data import ImageDataset, load, normalize
from fastgan.data.gaussian import Gaussian


class Counting(ImageDataset):
    """Image i is filled with i; `decoded` lists every index that was made."""

    def __init__(self, count: int = 10, **options) -> None:
        self.decoded: list[int] = []
        super().__init__("counting", count, image_size=4, channels=3, labels=torch.arange(count) % 3, **options)

    def _decode(self, indices):
        self.decoded += indices
        return torch.stack([torch.full((3, 4, 4), i, dtype=torch.uint8) for i in indices])


def test_batch_is_the_stack_of_items():
    dataset = Counting()
    batch = dataset.batch(torch.tensor([7, 2, 7]))
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (3, 3, 4, 4)
    assert batch["image"][:, 0, 0, 0].tolist() == [7, 2, 7]
    assert batch["index"].tolist() == [7, 2, 7] and batch["label"].tolist() == [1, 2, 1]
    item = dataset[2]
    assert {k: v.shape for k, v in item.items()} == {"image": (3, 4, 4), "index": (), "label": ()}
    assert torch.equal(item["image"], batch["image"][1]) and item["label"] == 2
    assert torch.equal(dataset[-1]["image"], dataset[9]["image"])


def test_an_image_is_decoded_once():
    dataset = Counting()
    dataset.batch([3, 4, 3])
    dataset.batch([4, 5])
    assert dataset.decoded == [3, 4, 5]


def test_images_beyond_the_memory_bound_are_decoded_each_time():
    dataset = Counting(max_cache_bytes=4 * 3 * 4 * 4)  # four images
    for _ in range(2):
        assert dataset.batch([9, 1, 5])["image"][:, 0, 0, 0].tolist() == [9, 1, 5]
    assert sorted(dataset.decoded) == [1, 5, 5, 9, 9]


def test_what_batch_returns_is_the_callers():
    dataset = Counting()
    dataset.batch([1])["image"].zero_()
    dataset[1]["image"].zero_()
    assert dataset[1]["image"].eq(1).all()


def test_empty_batch_and_iteration_end():
    dataset = Counting()
    assert dataset.batch(torch.empty(0, dtype=torch.int64))["image"].shape == (0, 3, 4, 4)
    assert len(list(dataset)) == 10


@pytest.mark.parametrize("indices", [[10], [-1], [[1]]])
def test_indices_out_of_range_are_refused(indices):
    with pytest.raises((IndexError, ValueError), match="indices takes"):
        Counting().batch(indices)


def test_a_pickled_data_set_leaves_its_cache_behind():
    dataset = load("scenes", image_size=64, size=500)
    dataset.batch([0])
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 3 * 64 * 64 * 2  # less than two of its images
    assert torch.equal(pickle.loads(pickled)[0]["image"], dataset[0]["image"])


def test_normalize_spans_the_range_and_passes_floats():
    images = torch.tensor([0, 255], dtype=torch.uint8)
    assert normalize(images).tolist() == [-1.0, 1.0]
    assert images.tolist() == [0, 255]
    points = torch.tensor([3.5])
    assert normalize(points) is points
    with pytest.raises(TypeError, match="images takes a uint8"):
        normalize(torch.tensor([1]))


def test_gaussian_has_its_moments_and_is_not_quantised():
    dataset = load("gaussian", size=20000, seed=3)
    values = dataset.batch(range(20000))["image"]
    assert values.shape == (20000, 1, 1, 1) and values.dtype == torch.float32
    assert (dataset.image_size, dataset.channels, dataset.classes) == (1, 1, None)
    assert abs(values.mean().item()) < 0.03 and abs(values.std().item() - 1) < 0.03
    assert values.unique().numel() > 19000
    assert not torch.equal(values, load("gaussian", size=20000, seed=3, split="test").batch(range(20000))["image"])


def test_gaussian_density_integrates_to_one():
    dataset = Gaussian(8, mean=2.0, std=0.5)
    x = torch.linspace(-2, 6, 4001)
    assert torch.trapezoid(dataset.density(x), x).item() == pytest.approx(1, abs=1e-5)
    assert dataset.density(torch.tensor(2.0)).item() == pytest.approx(0.79788456)


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(FileNotFoundError, match="'scense' is neither .*did you mean 'scenes'"):
        load("scense")


def test_a_missing_path_says_what_is_taken(tmp_path):
    with pytest.raises(FileNotFoundError, match="data takes scenes, .* is neither a data set nor a path that exists$"):
        load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size takes a positive number"),
        ({"size": 2.5}, "size takes a positive number"),
        ({"image_size": 4}, "image_size takes 8 to 512"),
        ({"channels": 2}, r"channels takes 1 \(grey\), 3 \(RGB\), 4 \(RGBA\)"),
        ({"split": "dev"}, "split takes 'train'"),
    ],
)
def test_bad_options_of_scenes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load("scenes", **options)


def test_a_gaussian_has_one_channel():
    with pytest.raises(ValueError, match="channels takes 1"):
        load("gaussian", channels=3)
