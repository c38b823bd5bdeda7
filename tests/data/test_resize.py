"""Channel conversion and resizing against numbers worked out by hand."""

import torch

from fastgan.data.resize import convert_channels, crop_and_resize, resize_note


def pixel(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1)


def test_grey_is_bt601_luma():
    assert convert_channels(pixel(255, 0, 0), 1).flatten().tolist() == [76]
    assert convert_channels(pixel(0, 255, 0), 1).flatten().tolist() == [150]
    assert convert_channels(pixel(255, 255, 255), 1).flatten().tolist() == [255]


def test_grey_becomes_colour_and_opaque():
    assert convert_channels(pixel(9), 3).flatten().tolist() == [9, 9, 9]
    assert convert_channels(pixel(9), 4).flatten().tolist() == [9, 9, 9, 255]


def test_transparency_is_composited_over_white():
    assert convert_channels(pixel(10, 20, 30, 0), 3).flatten().tolist() == [255, 255, 255]
    assert convert_channels(pixel(10, 20, 30, 255), 3).flatten().tolist() == [10, 20, 30]
    assert convert_channels(pixel(0, 0, 0, 51), 1).flatten().tolist() == [204]


def test_resize_takes_the_centre_square():
    images = torch.zeros(1, 1, 4, 10, dtype=torch.uint8)
    images[..., 3:7] = 200
    assert crop_and_resize(images, 4).eq(200).all()
    assert crop_and_resize(images.transpose(2, 3), 8).eq(200).all()


def test_shrinking_is_antialiased():
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    shrunk = crop_and_resize(stripes, 8).float()
    assert (shrunk - 127.5).abs().max() < 8  # point sampling would give 0 or 255


def test_note_speaks_only_of_a_change():
    assert resize_note(28, 32) == "resized 28 -> 32 px"
    assert resize_note("32", 32) == "32 px"
