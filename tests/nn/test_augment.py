"""DiffAugment and ADA: known transformations, per-picture draws, probabilities, first and second derivatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastgan.nn import AdaptiveAugment, DiffAugment, ada


def smooth(n: int = 4, channels: int = 3, size: int = 32, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Pictures without fine detail, which resampling keeps."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(n, channels, size + 8, size + 8, dtype=dtype, generator=generator)
    return F.avg_pool2d(noise, 9, 1) * 4 - 2


# -- DiffAugment -------------------------------------------------------------------------------------------------------


def test_color_is_the_paper_s_formula() -> None:
    x = smooth(2)
    torch.manual_seed(0)
    got = DiffAugment("color")(x)
    torch.manual_seed(0)
    b, s, c = (torch.rand(2, 1, 1, 1, dtype=x.dtype) for _ in range(3))
    expected = x + (b - 0.5)
    expected = (expected - expected.mean(1, keepdim=True)) * (2 * s) + expected.mean(1, keepdim=True)
    mean = expected.flatten(1).mean(1).view(2, 1, 1, 1)
    torch.testing.assert_close(got, (expected - mean) * (c + 0.5) + mean)


def test_translation_moves_each_picture_by_up_to_an_eighth() -> None:
    x = torch.arange(1.0, 257.0).view(1, 1, 16, 16).repeat(300, 1, 1, 1)
    moved = DiffAugment("translation")(x)
    padded, seen = F.pad(x[0], (2, 2, 2, 2)), set()
    for picture in moved:
        fits = [(i, j) for i in range(5) for j in range(5) if torch.equal(picture, padded[:, i : i + 16, j : j + 16])]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 25


def test_cutout_zeroes_a_square_of_half_the_size() -> None:
    cut = DiffAugment("cutout")(torch.ones(400, 2, 16, 16))
    assert torch.equal(cut[:, 0], cut[:, 1])
    sizes = set()
    for picture in cut[:, 0]:
        rows, columns = (picture == 0).any(1), (picture == 0).any(0)
        assert torch.equal(picture == 0, rows[:, None] & columns)
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert max(sizes) == (8, 8) and min(sizes) == (4, 4)  # half of the square is always inside


@pytest.mark.parametrize("augment", [DiffAugment(), AdaptiveAugment()])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_dtype_and_one_draw_a_picture(augment: torch.nn.Module, channels: int) -> None:
    if isinstance(augment, AdaptiveAugment):
        augment.p.fill_(1.0)
    x = smooth(1, channels, dtype=torch.float32).repeat(6, 1, 1, 1)
    torch.manual_seed(3)
    first, second = augment(x), augment(x)
    assert first.shape == x.shape and first.dtype == x.dtype and first.isfinite().all()
    assert len({tuple(picture.flatten().tolist()) for picture in [*first, *second]}) == 12
    torch.manual_seed(3)
    assert torch.equal(augment(x), first)


@pytest.mark.parametrize("augment", [DiffAugment(), AdaptiveAugment()])
def test_first_and_second_derivatives(augment: torch.nn.Module) -> None:
    if isinstance(augment, AdaptiveAugment):
        augment.p.fill_(1.0)
    x = smooth(2, 3, 8).requires_grad_()
    weight = torch.randn(3, 8, 8, dtype=x.dtype, generator=torch.Generator().manual_seed(2))

    def loss(x: torch.Tensor) -> torch.Tensor:  # not linear in x, so that its second derivative is not zero
        torch.manual_seed(5)
        return (augment(x) * weight).pow(3).sum((1, 2, 3))

    assert torch.autograd.gradcheck(loss, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (x,), fast_mode=True)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match="policy has 'blur'; it takes some of color, translation, cutout"):
        DiffAugment("color,blur")


# -- ADA ---------------------------------------------------------------------------------------------------------------


def test_with_probability_zero_nothing_changes() -> None:
    x = smooth()
    torch.testing.assert_close(AdaptiveAugment()(x), x, rtol=0, atol=1e-15)


def test_doubling_and_halving_is_the_identity() -> None:
    taps = torch.tensor(ada.SYM6, dtype=torch.float64)
    for m in range(6):
        assert (taps[2 * m :] * taps[: 12 - 2 * m]).sum().item() == pytest.approx(float(m == 0), abs=1e-11)
    assert taps.sum().item() == pytest.approx(math.sqrt(2), abs=1e-11)
    assert round((taps * torch.arange(12)).sum().item() / taps.sum().item()) == ada.CENTRE


def warped(x: torch.Tensor, matrix: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    inverse = torch.tensor(matrix).expand(len(x), 3, 3)
    monkeypatch.setattr(ada, "_inverse_geometry", lambda draw, height, width: inverse)
    return ada._warped(x, torch.zeros(()), torch.tensor(ada.SYM6))


def inner(x: torch.Tensor) -> torch.Tensor:
    return x[..., 8:-8, 8:-8]


def test_whole_pixel_translation_is_exact_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    x = smooth()
    got = warped(x, [[1.0, 0, 3], [0, 1, -2], [0, 0, 1]], monkeypatch)
    torch.testing.assert_close(inner(got), inner(x.roll((2, -3), (2, 3))), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]], lambda x: x.flip(3)),
        ([[1.0, 0, 0], [0, -1, 0], [0, 0, 1]], lambda x: x.flip(2)),
        ([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], lambda x: x.rot90(-1, (2, 3))),
        ([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]], lambda x: x.mT),
    ],
)
def test_flips_and_turns(matrix: list, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    x = smooth()
    got, expected = warped(x, matrix, monkeypatch), expected(x)
    # the filter leans by a tenth of a sample, a twentieth of a pixel: that far may a mirrored picture lie off
    steepest = max((expected.diff(dim=dim)).abs().max().item() for dim in (2, 3))
    assert inner(got - expected).abs().max() < 0.15 * steepest
    assert (got - expected).abs().max() < 0.5 * steepest  # and at the edges, where the mirrored filter is not the same


def test_the_order_and_direction_of_the_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture flipped first and moved to the right then is not one moved first."""

    class Fixed(ada._Draw):
        def often(self, value, neutral, p=None):
            self.calls = getattr(self, "calls", -1) + 1
            chosen = {0: -1.0, 2: 1.0}.get(self.calls)  # flip, and a shift
            return torch.full_like(value, neutral if chosen is None else chosen)

        def uniform(self, low, high):
            return torch.full((self.n,), 0.125 if high == 0.125 else 0.0)

    x = torch.zeros(1, 1, 32, 32)
    inverse = ada._inverse_geometry(Fixed(x, torch.zeros(())), 32, 32)[0]
    # 4 pixels right and down after the flip: what is at (4, 4) from the centre was at (0, 0), right of it was left
    assert (inverse @ torch.tensor([4.0, 4, 1])).tolist() == [0, 0, 1]
    assert (inverse @ torch.tensor([5.0, 4, 1])).tolist() == [-1, 0, 1]


class Chosen(ada._Draw):
    """Only the transformation of one number is drawn, with a given value."""

    which, value = 0, 0.0

    def often(self, value, neutral, p=None):
        self.calls = getattr(self, "calls", -1) + 1
        return torch.full_like(value, self.value if self.calls == self.which else neutral)


@pytest.mark.parametrize(
    ("which", "value", "expected"),
    [
        (0, 0.25, lambda r, g, b: (r + 0.25, g + 0.25, b + 0.25)),
        (1, 2.0, lambda r, g, b: (2 * r, 2 * g, 2 * b)),
        (2, 1.0, lambda r, g, b: tuple(v - 2 * (r + g + b) / 3 for v in (r, g, b))),
        (3, 2 * math.pi / 3, lambda r, g, b: (b, r, g)),
        (4, 0.0, lambda r, g, b: ((r + g + b) / 3,) * 3),
    ],
    ids=["brightness", "contrast", "luma flip", "hue", "saturation"],
)
def test_colors(which: int, value: float, expected) -> None:
    draw = Chosen(torch.zeros(1, 3, 8, 8), torch.zeros(()))
    draw.which, draw.value = which, value
    color = (0.1, -0.4, 0.7)
    got = ada._color_matrix(draw)[0] @ torch.tensor([*color, 1.0])
    torch.testing.assert_close(got, torch.tensor([*expected(*color), 1.0]))


def test_grey_pictures_are_the_mean_of_colored_ones() -> None:
    x, p = smooth(5, 1), torch.ones(())
    torch.manual_seed(0)
    grey = ada._colored(x, p)
    torch.manual_seed(0)
    torch.testing.assert_close(grey, ada._colored(x.repeat(1, 3, 1, 1), p).mean(1, keepdim=True))


def test_each_transformation_is_drawn_with_probability_p() -> None:
    torch.manual_seed(0)
    draw = ada._Draw(torch.zeros(20000, 3, 8, 8), torch.tensor(0.3))
    chosen = draw.often(torch.ones(20000), 0.0)
    assert chosen.mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 20000))
    inverse = ada._inverse_geometry(draw, 64, 64)
    kept = (inverse == torch.eye(3)).all(2).all(1).double().mean().item()
    # 1 of 2 flips, 1 of 4 turns and 1 of 17 x 17 shifts (nearly) change nothing
    expected = 0.85 * 0.775 * 0.7 * 0.7 * 0.7 * 0.7 * 0.7
    assert kept == pytest.approx(expected, abs=0.02)


def test_p_rises_to_one_and_falls_to_zero_within_the_images() -> None:
    augment = AdaptiveAugment(target=0.6, images=320, interval=4)
    values = []
    for _ in range(24):
        augment.observe(torch.full((16,), 3.0))
        values.append(augment.p.item())
    assert values[:8] == pytest.approx([0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.4]) and values[-1] == 1
    for _ in range(4):
        augment.observe(torch.tensor([1.0, 1.0, 1.0, -1.0] * 4))  # r_t = 0.5: below the target
    assert augment.p.item() == pytest.approx(0.8)
    for _ in range(40):
        augment.observe(torch.full((16,), -3.0))
    assert augment.p.item() == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 4, 16, 16), "1 or 3 channels, got 4: use diffaugment"), ((2, 3, 4, 4), "at least 7 pixels, got 4x4")],
)
def test_what_ada_does_not_take(shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveAugment()(torch.zeros(shape))


def test_bad_options_of_ada() -> None:
    with pytest.raises(ValueError, match="target takes a number between 0 and 1"):
        AdaptiveAugment(target=1.5)
