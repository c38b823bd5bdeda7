"""Guided backpropagation against patterns computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastgan import registry
from fastgan.analysis.activations import discriminator, image_batches, untrained
from fastgan.analysis.guided import draw, guided_gradient, strongest
from fastgan.data import load


def one_layer(activation: nn.Module | None = None) -> nn.Sequential:
    """4x4 patches side by side on 16x16 images: a unit's receptive field is one patch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), activation or nn.ReLU(inplace=True))


def test_of_one_relu_layer_it_is_the_weights_at_the_strongest_unit():
    network = one_layer()
    images = torch.randn(5, 3, 16, 16)
    gradient = guided_gradient(network, images, None, torch.arange(5))
    responses = network(images)
    for i in range(5):
        row, column = divmod(int(responses[i, i].flatten().argmax()), 4)
        expected = torch.zeros(3, 16, 16)
        expected[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = network[0].weight[i]
        torch.testing.assert_close(gradient[i], expected)


def test_a_unit_that_is_not_active_has_no_gradient_and_a_leaky_one_its_slope():
    image = -torch.ones(1, 3, 16, 16)
    for activation, slope in ((nn.ReLU(), 0.0), (nn.LeakyReLU(0.2, inplace=True), 0.2)):
        network = one_layer(activation)
        nn.init.constant_(network[0].weight, 1.0)
        gradient = guided_gradient(network, image, 1, torch.tensor([0]))
        torch.testing.assert_close(gradient[:, :, :4, :4], torch.full((1, 3, 4, 4), slope))


@pytest.mark.parametrize(("activation", "slope"), [(nn.ReLU(inplace=True), 0.0), (nn.LeakyReLU(0.2), 0.2)])
def test_negative_gradients_stop_at_a_rectifier(activation, slope):
    """Two layers on one pixel: h = act(x w), f = act(h v), each path by hand."""
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), activation, nn.Conv2d(4, 1, 1, bias=False), nn.ReLU())
    w = torch.tensor([1.0, 2.0, -3.0, 5.0])  # the third hidden unit is not active
    v = torch.tensor([20.0, -1.0, 11.0, -0.25])  # the second and fourth pull the response down
    network[0].weight.data = w.view(4, 1, 1, 1)
    network[2].weight.data = v.view(1, 4, 1, 1)
    gradient = guided_gradient(network, torch.ones(1, 1, 4, 4), None, torch.tensor([0]))
    expected = 20.0 * 1.0 + slope * 11.0 * -3.0  # a plain gradient has -1 * 2 and -.25 * 5 as well
    assert gradient.abs().sum().item() == pytest.approx(abs(expected)) and gradient[0, 0, 0, 0] == expected


def test_a_plain_gradient_is_another_one():
    network = discriminator(registry.create("dcgan", image_size=16, ngf=2, ndf=8))
    images = torch.randn(4, 3, 16, 16)
    gradient = guided_gradient(network, images, None, torch.zeros(4, dtype=torch.int64))
    plain = images.clone().requires_grad_()
    network.layers[:5](plain)[:, 0].flatten(1).amax(1).sum().backward()
    assert gradient.abs().sum() > 0 and not torch.allclose(gradient, plain.grad)
    assert gradient.grad_fn is None


def test_the_strongest_images_of_each_channel_over_all_batches():
    network = one_layer()
    images = torch.randn(50, 3, 16, 16)
    channels = torch.tensor([4, 0])
    found = strongest(network, images.split(20), 1, channels, top=3)
    responses = network(images).amax((2, 3)).T[channels]
    expected, order = responses.topk(3)
    torch.testing.assert_close(found.responses, expected)
    assert torch.equal(found.images, images[order])
    assert strongest(network, [images[:2]], 1, channels, top=3).images.shape == (2, 2, 3, 16, 16)


@pytest.mark.parametrize(
    ("layer", "channel", "words"), [(0, 0, "layer is 0; .* 1 to 1"), (2, 0, "1 to 1"), (1, 5, "0 to 4")]
)
def test_layers_and_channels_that_are_not_there(layer, channel, words):
    with pytest.raises(ValueError, match=words):
        guided_gradient(one_layer(), torch.zeros(1, 3, 16, 16), layer, torch.tensor([channel]))


def test_the_picture_shows_images_above_their_gradients_in_both_blocks(tmp_path):
    model = registry.create("dcgan", image_size=16, ngf=2, ndf=4)
    data = load("scenes", image_size=16, size=30)
    networks = {"untrained": untrained(model, 0), "trained": discriminator(model)}
    file = draw(networks, data, tmp_path / "filters.png", layer=1, channels=2, top=3)
    pixels = np.asarray(Image.open(file))
    tile = 48 + 4
    assert pixels.shape == (5 * tile, 7 * tile, 3)
    first = strongest(networks["trained"], image_batches(data), 1, torch.arange(1), 1).images[0, 0]
    shown = pixels[tile + 2 : 2 * tile - 2 : 3, 4 * tile + 2 : 5 * tile - 2 : 3]
    assert (shown == first.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()).all()
    gradient = pixels[2 * tile + 2 : 3 * tile - 2, 4 * tile + 2 : 5 * tile - 2]
    assert gradient.min() == 0 or gradient.max() == 255  # scaled to its largest value
