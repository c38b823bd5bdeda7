"""The view with few labels: which images keep theirs, and what a batch holds."""

import pickle

import pytest
import torch

from fastgan.data import load
from fastgan.data.few_labels import FewLabels
from fastgan.data.scenes import Scenes
from fastgan.metrics.measure import real_subset
from fastgan.training.options import describe_data


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(100, image_size=8)


def test_even_items_are_all_images_and_odd_ones_walk_the_labelled(scenes):
    view = FewLabels(scenes, 12)
    assert len(view) == 200 and view.image_size == 8 and view.channels == 3 and view.classes == scenes.classes
    batch, all_images = view.batch(range(200)), scenes.batch(range(100))
    assert torch.equal(batch["image"][::2], all_images["image"])
    assert batch["label"][::2].eq(-1).all() and torch.equal(batch["index"], torch.arange(200))
    walked = view.labelled[torch.arange(100) % 12]
    assert torch.equal(batch["image"][1::2], all_images["image"][walked])
    assert torch.equal(batch["label"][1::2], all_images["label"][walked])


def test_labels_are_shared_equally_and_chosen_by_the_seed(scenes):
    first, again, other = (FewLabels(scenes, 30, seed=seed).labelled for seed in (0, 0, 1))
    assert torch.bincount(scenes.labels[first]).tolist() == [5] * 6 and len(first.unique()) == 30
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_random_batch_is_half_labelled(scenes):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    share = FewLabels(scenes, 6).labels[order[:80]].ge(0).float().mean().item()
    assert 0.35 < share < 0.65


def test_metrics_and_records_see_every_image_once(scenes):
    view = FewLabels(scenes, 6)
    assert torch.equal(view.batch(real_subset(view, 500))["image"], scenes.batch(range(100))["image"])
    assert view.labels[real_subset(view, 40)].eq(-1).all()
    assert describe_data(view)["items"] == 100
    assert view.describe() == (
        "scenes?labels=6: 200 images, 6 classes, 3x8x8, 6 of 100 labels kept, made on the fly, split train, seed 0"
    )


def test_a_copy_for_a_worker_gives_the_same(scenes):
    view = FewLabels(scenes, 6)
    assert torch.equal(pickle.loads(pickle.dumps(view)).batch([1, 7])["image"], view.batch([1, 7])["image"])


def test_what_cannot_be_shared_is_refused(scenes):
    with pytest.raises(ValueError, match="takes a multiple of the 6 classes of scenes, got 10"):
        FewLabels(scenes, 10)
    with pytest.raises(ValueError, match="labels=600 is 100 of every class, but scenes has .. of sphere"):
        FewLabels(scenes, 600)
    with pytest.raises(ValueError, match="'gaussian' has no classes"):
        FewLabels(load("gaussian", size=10), 2)
