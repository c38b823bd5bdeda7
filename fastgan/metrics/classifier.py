"""``ClassifierFeatures``: a small convolutional classifier trained on labelled images, as a feature net.

Features that know the classes of the very data that a GAN imitates tell more about its samples than features of
photographs do, and a class count makes the Inception Score and the mode count possible. Trained by ``train_classifier``
(``fastgan train-features``), stored as safetensors, named by its data and the digest of its weights: two trainings give
two names, since their numbers do not compare.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fastgan.data.dataset import ImageDataset, normalize
from fastgan.metrics.features import LUMA, FeatureNet, digest, to_rgb

__all__ = ["ClassifierFeatures", "load_classifier", "save_classifier", "train_classifier"]

_KEY = "fastgan_classifier"  # of the description in a file's metadata


class ClassifierFeatures(FeatureNet):
    """Three 3x3 convolutions (32, 64, 64 channels, BatchNorm, ReLU, max pooling), pooled to 3x3, then 128 features
    before the head.

    Args:
        channels: 1 or 3, of the images it is trained on; images of other channels are converted.
        image_size: of those images; others are resized.
        classes: their names.
        data: name of the data set.
    """

    dim = 128

    def __init__(self, channels: int, image_size: int, classes: Sequence[str], data: str) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"a feature classifier takes images of 1 or 3 channels, got {channels}")
        self.channels, self.image_size, self.classes, self.data = channels, image_size, tuple(classes), data
        self.num_classes = len(self.classes)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1) for inputs, outputs in ((channels, 32), (32, 64), (64, 64))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(convolution.out_channels) for convolution in self.convolutions)
        self.embed = nn.Linear(64 * 3 * 3, self.dim)
        self.classify = nn.Linear(self.dim, self.num_classes)

    @property
    def name(self) -> str:
        return f"{self.data}_cnn-{digest(self.state_dict())}"

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        x, maps = self._as_trained(images), []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x)).relu()
            maps.append(x)
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return maps

    def pool(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return self.embed(F.adaptive_avg_pool2d(maps[-1], 3).flatten(1)).relu()

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.classify(features)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(N, num_classes), with gradients: what training needs."""
        return self.head(self.pool(self.maps(images)))

    def _as_trained(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] != self.channels:
            images = to_rgb(images)
            if self.channels == 1:
                images = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        size = (self.image_size, self.image_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return images


def train_classifier(
    dataset: ImageDataset, *, epochs: int = 5, batch_size: int = 128, lr: float = 3e-3, seed: int = 0
) -> ClassifierFeatures:
    """Train on a labelled data set: Adam, the learning rate falling to 0 along a cosine. Torch's generators are kept.

    The same seed gives the same net on one machine with as many threads.

    Raises:
        ValueError: the data set has no labels, or not all of them, or too few images for one batch.
    """
    if dataset.labels is None:
        raise ValueError(f"data set {dataset.name!r} has no labels: a feature classifier is trained on labelled images")
    if (dataset.labels < 0).any():
        raise ValueError(
            f"data set {dataset.name!r} has images without a label (-1): a feature classifier takes a label for each"
        )
    if min(epochs, batch_size) < 1:
        raise ValueError(f"epochs and batch_size take positive numbers, got {epochs} and {batch_size}")
    classes = dataset.classes or tuple(map(str, range(int(dataset.labels.max()) + 1)))
    batch_size = min(batch_size, len(dataset))
    steps = epochs * (len(dataset) // batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ClassifierFeatures(dataset.channels, dataset.image_size, classes, dataset.name)
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            order = torch.randperm(len(dataset))
            for start in range(0, len(order) - batch_size + 1, batch_size):
                batch = dataset.batch(order[start : start + batch_size])
                loss = F.cross_entropy(net.logits(normalize(batch["image"])), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return net.freeze()


@torch.no_grad()
def accuracy(net: ClassifierFeatures, dataset: ImageDataset, batch_size: int = 512) -> float:
    """Share of the data set that the net names rightly."""
    right = 0
    for indices in torch.arange(len(dataset)).split(batch_size):
        batch = dataset.batch(indices)
        right += (net.logits(normalize(batch["image"])).argmax(1) == batch["label"]).sum().item()
    return right / len(dataset)


def save_classifier(net: ClassifierFeatures, path: str | os.PathLike) -> Path:
    """Write the net as safetensors, whole or not at all; makes the folder."""
    save_file = _safetensors().torch.save_file
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"channels": net.channels, "image_size": net.image_size, "classes": net.classes, "data": net.data}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(net.state_dict(), temporary, metadata={_KEY: json.dumps(about)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_classifier(path: str | os.PathLike) -> ClassifierFeatures:
    """The net in a file that ``save_classifier`` wrote.

    Raises:
        ValueError: damaged, or of something else.
    """
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"feature net {str(path)!r} is damaged, or no safetensors file ({error})") from error
    if about is None:
        raise ValueError(f"{str(path)!r} is no feature net: `fastgan train-features` writes one")
    net = ClassifierFeatures(**json.loads(about))
    net.load_state_dict(weights)
    return net.freeze()


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("feature nets are stored by safetensors: pip install safetensors") from error
    return safetensors
