"""PSNR, SSIM and MS-SSIM against the papers' formulas written as loops in plain Python, and by hand."""

import math

import pytest
import torch

from fastgan.metrics import ms_ssim, psnr, ssim
from fastgan.metrics.similarity import MS_SSIM_WEIGHTS, ssim_scales


def images(n: int, channels: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures in [-1, 1] and noisy ones of them, float64."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    a = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return a, (a + 0.2 * torch.randn(a.shape, generator=generator, dtype=torch.float64)).clamp(-1, 1)


# -- the formulas, as loops --------------------------------------------------------------------------------------------

Plane = list[list[float]]


def terms_by_loops(a: Plane, b: Plane, data_range: float) -> tuple[float, float]:
    """(mean of SSIM, mean of its contrast-structure part) of one channel over all 11x11 windows inside it."""
    g = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    mass = sum(g) ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    full, structure = [], []
    for top in range(len(a) - 10):
        for left in range(len(a[0]) - 10):
            window = [
                (g[i] * g[j] / mass, a[top + i][left + j], b[top + i][left + j]) for i in range(11) for j in range(11)
            ]
            mean_a, mean_b = sum(w * x for w, x, _ in window), sum(w * y for w, _, y in window)
            var_a = sum(w * (x - mean_a) ** 2 for w, x, _ in window)
            var_b = sum(w * (y - mean_b) ** 2 for w, _, y in window)
            cov = sum(w * (x - mean_a) * (y - mean_b) for w, x, y in window)
            cs = (2 * cov + c2) / (var_a + var_b + c2)
            structure.append(cs)
            full.append((2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * cs)
    return sum(full) / len(full), sum(structure) / len(structure)


def halve(a: Plane) -> Plane:
    def mean(i: int, j: int) -> float:
        return (a[i][j] + a[i + 1][j] + a[i][j + 1] + a[i + 1][j + 1]) / 4

    return [[mean(2 * i, 2 * j) for j in range(len(a[0]) // 2)] for i in range(len(a) // 2)]


def ms_ssim_by_loops(a: Plane, b: Plane, data_range: float, scales: int) -> float:
    weights = MS_SSIM_WEIGHTS[:scales]
    product = 1.0
    for scale, weight in enumerate(weights):
        full, structure = terms_by_loops(a, b, data_range)
        product *= (full if scale == scales - 1 else structure) ** (weight / sum(weights))
        a, b = halve(a), halve(b)
    return product


# -- against them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_range", [2.0, 1.0, 255.0])
def test_ssim_is_the_formula(data_range):
    a, b = (x * data_range / 2 for x in images(2, 2, 14, 17))
    expected = [
        sum(terms_by_loops(a[i, c].tolist(), b[i, c].tolist(), data_range)[0] for c in range(2)) / 2 for i in range(2)
    ]
    assert ssim(a, b, data_range=data_range).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("scales", "height", "width"), [(1, 12, 11), (2, 23, 24), (3, 45, 46)])
def test_ms_ssim_is_the_formula(scales, height, width):
    a, b = images(1, 1, height, width, seed=scales)
    expected = ms_ssim_by_loops(a[0, 0].tolist(), b[0, 0].tolist(), 2.0, scales)
    assert ms_ssim(a, b, data_range=2.0, scales=scales).item() == pytest.approx(expected, rel=1e-10)


def test_one_scale_is_ssim_and_five_fit_176_pixels():
    a, b = images(2, 1, 176, 176)
    assert ms_ssim(a, b, data_range=2.0, scales=1).tolist() == pytest.approx(ssim(a, b, data_range=2.0).tolist())
    assert 0 < ms_ssim(a, b, data_range=2.0).min() < 1
    assert sum(MS_SSIM_WEIGHTS) == pytest.approx(1, abs=1e-3)
    assert [ssim_scales(n) for n in (10, 11, 21, 22, 44, 87, 88, 175, 176, 999)] == [0, 1, 1, 2, 3, 3, 4, 4, 5, 5]


def test_psnr_by_hand():
    a = torch.zeros(3, 1, 2, 2)
    b = a.clone()
    b[0, 0, 0, 0] = 0.2  # mean squared error .01
    b[1] = 1.0
    # 10 log10(4 / .01), 10 log10(4), equal
    assert psnr(a, b, data_range=2.0).tolist() == pytest.approx([26.0206, 6.0206, math.inf], abs=1e-4)
    assert psnr(a, b, data_range=1.0)[0].item() == pytest.approx(20)


def test_luminance_of_flat_images_by_hand():
    # no variance: SSIM is (2 * .5 * .3 + c1) / (.25 + .09 + c1), c1 = (.01 * 1)^2
    a, b = torch.full((1, 1, 11, 11), 0.5), torch.full((1, 1, 11, 11), 0.3)
    expected = (0.3 + 1e-4) / (0.34 + 1e-4)
    assert ssim(a, b, data_range=1.0).item() == pytest.approx(expected, rel=1e-4)


def test_equal_images_negative_structure_and_gradients():
    a, b = images(1, 3, 32, 32)
    for measure in (ssim, lambda x, y, data_range: ms_ssim(x, y, data_range=data_range, scales=2)):
        assert measure(a, a, data_range=2.0).item() == pytest.approx(1)
        assert measure(a, b, data_range=2.0).item() == pytest.approx(measure(b, a, data_range=2.0).item())
    noise = torch.randn(1, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3
    inverted = 0.5 + noise, 0.5 - noise
    assert ssim(*inverted, data_range=2.0).item() < -0.5
    assert ms_ssim(*inverted, data_range=2.0, scales=2).item() == 0  # no power of a negative number
    moved = b.clone().requires_grad_()
    ssim(a, moved, data_range=2.0).sum().backward()
    assert moved.grad.isfinite().all() and moved.grad.abs().sum() > 0


def test_single_precision_and_half():
    a, b = images(2, 3, 32, 32)
    exact = ssim(a, b, data_range=2.0)
    assert ssim(a.float(), b.float(), data_range=2.0).tolist() == pytest.approx(exact.tolist(), abs=1e-5)
    assert ssim(a.bfloat16(), b.bfloat16(), data_range=2.0).dtype == torch.float32


def test_bad_input_is_named():
    a, b = images(1, 1, 30, 60)
    with pytest.raises(
        ValueError, match="SSIM of 5 scales takes images of at least 176 pixels a side, got 30; scales=2"
    ):
        ms_ssim(a, b, data_range=2.0)
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 8"):
        ssim(a[..., :8], b[..., :8], data_range=2.0)
    with pytest.raises(ValueError, match="of one shape"):
        psnr(a, b[..., 1:], data_range=2.0)
    with pytest.raises(TypeError, match="floating"):
        psnr(a.byte(), b.byte(), data_range=255)
    with pytest.raises(ValueError, match="data_range takes a positive number"):
        ssim(a, b, data_range=0)
