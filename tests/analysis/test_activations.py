"""What is seen of a discriminator: the right tensors, whatever the network is written in, and errors as sentences."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import registry
from fastgan.analysis.activations import discriminator, feature_maps, image_batches, untrained
from fastgan.data import load


class Functional(nn.Module):
    """Activations as functions, a shortcut, and a convolution that nothing activates."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(4, 1, 8)

    def forward(self, x):
        a = F.relu(self.first(x))
        b = self.second(a) + self.shortcut(x)
        return self.last(torch.tanh(b)).flatten()


def images(n: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_maps_are_the_activated_outputs_of_convolutions():
    network = registry.create("dcgan", image_size=32, ngf=2, ndf=3).discriminator.eval()
    x = images(size=32)
    maps = feature_maps(network, x)
    assert [tuple(m.shape[1:]) for m in maps] == [(3, 16, 16), (6, 8, 8), (12, 4, 4)]  # not the 1x1 of the logits
    expected, i = x, 0
    for layer in network.layers:
        expected = layer(expected)
        if isinstance(layer, nn.LeakyReLU):
            torch.testing.assert_close(maps[i], expected)
            i += 1
            expected = expected.clone()
    assert i == 3


def test_functions_shortcuts_and_convolutions_without_activation():
    network = Functional()
    x = images(size=8)
    first, second, shortcut = feature_maps(network, x)
    a = network.first(x).relu()
    torch.testing.assert_close(first, a)
    torch.testing.assert_close(second, network.second(a))  # the shortcut comes before any activation
    torch.testing.assert_close(shortcut, (network.second(a) + network.shortcut(x)).tanh())


def test_a_fused_network_gives_the_maps_of_the_plain_one():
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    x = images()
    for _ in range(3):
        model.discriminator(x)  # running statistics that matter
    plain = feature_maps(discriminator(model), x)
    fused = copy.deepcopy(model)
    fastgan.fuse(fused.discriminator)
    classes = [type(m) for m in fused.discriminator.modules()]
    copied = discriminator(fused)
    assert not copied.training and all(torch.equal(a, b) for a, b in zip(plain, feature_maps(copied, x), strict=True))
    assert classes == [type(m) for m in fused.discriminator.modules()] and fused.training


@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_spectral_norm_and_critics(norm):
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4, discriminator_norm=norm)
    assert len(feature_maps(discriminator(model), images())) == 2
    critic = registry.create("wgan_gp", image_size=16, ngf=2, ndf=4)
    assert len(feature_maps(discriminator(critic, "critic"), images())) == 2


def test_an_untrained_one_has_the_shape_and_weights_of_its_seed():
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    before = torch.get_rng_state()
    first, again, other = untrained(model, 5), untrained(model, 5), untrained(model, 6)
    assert torch.equal(torch.get_rng_state(), before)
    trained = model.discriminator.state_dict()
    for name, weight in first.state_dict().items():
        assert weight.shape == trained[name].shape and torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.layers[0].weight, trained["layers.0.weight"])
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_networks_without_features_are_refused_in_a_sentence():
    perceptron = registry.create("gan", image_size=16, hidden=4, maxout_units=4)
    with pytest.raises(ValueError, match="no convolution with a result of at least 4x4"):
        feature_maps(discriminator(perceptron), images())
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    with pytest.raises(ValueError, match="dcgan has no discriminator 'critic'; it has discriminator"):
        discriminator(model, "critic")
    model.discriminators = ()
    with pytest.raises(ValueError, match="dcgan has no discriminator to look into"):
        discriminator(model)


def test_images_of_another_size_are_refused_with_torchs_reason():
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    with pytest.raises(ValueError, match="does not take images of 3x8x8 alone .*Kernel size"):
        feature_maps(discriminator(model), images(size=8))


def test_a_discriminator_that_is_told_the_label_is_refused():
    class Told(nn.Module):
        def forward(self, image, label, scale=1.0):
            return image.flatten(1).sum(1)

    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    model.discriminator = Told()
    with pytest.raises(ValueError, match="takes label besides the picture"):
        discriminator(model)


def test_images_come_in_batches_as_networks_take_them():
    data = load("scenes", image_size=16, size=300)
    parts = list(image_batches(data))
    assert [len(part) for part in parts] == [256, 44] and parts[0].min() >= -1 and parts[0].max() <= 1
    (chosen,) = image_batches(data, torch.tensor([299, 0]))
    assert torch.equal(chosen, torch.stack([parts[1][43], parts[0][0]]))
