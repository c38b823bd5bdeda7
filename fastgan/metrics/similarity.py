"""PSNR, SSIM and MS-SSIM: how alike two images are, pixel by pixel and structure by structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["MS_SSIM_WEIGHTS", "ms_ssim", "psnr", "ssim", "ssim_scales"]

WINDOW, SIGMA = 11, 1.5  # of the Gaussian that statistics are local to
K1, K2 = 0.01, 0.03
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang et al. 2003, finest scale first


def psnr(a: torch.Tensor, b: torch.Tensor, *, data_range: float) -> torch.Tensor:
    """Peak signal-to-noise ratio 10 log10(data_range^2 / mean squared error) in decibels; infinite for equal images.

    Args:
        a, b: images (N, C, H, W), floating.
        data_range: largest less smallest possible value: 2 for images in [-1, 1].

    Returns:
        (N,), in the images' dtype (float32 for half precision), differentiable.
    """
    a, b = _pair(a, b, data_range)
    return 10 * torch.log10(data_range**2 / (a - b).square().mean((1, 2, 3)))


def ssim(a: torch.Tensor, b: torch.Tensor, *, data_range: float) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004): mean over the image and its channels, 1 for equal images.

    Means, variances and covariance are local to a Gaussian window of 11 pixels, sigma 1.5, and biased (divided by the
    window's mass), as in the authors' code; only windows that lie wholly inside the image count.

    Args, Returns: as ``psnr``; images of at least 11 pixels a side.
    """
    a, b = _pair(a, b, data_range)
    _check_size(a, 1)
    return torch.mul(*_terms(a, b, data_range)).mean((1, 2, 3))


def ms_ssim(a: torch.Tensor, b: torch.Tensor, *, data_range: float, scales: int = 5) -> torch.Tensor:
    """Multi-scale SSIM (Wang, Simoncelli and Bovik 2003): contrast and structure at every scale, luminance at the last.

    Between scales images are averaged 2x2. A mean contrast-structure term below 0 counts as 0, since its power would be
    no number. Channels are compared alone and averaged.

    Args:
        a, b: images (N, C, H, W), floating; at least 11 * 2^(scales - 1) pixels a side (176 for all five).
        data_range: as ``psnr``.
        scales: 1 to 5. Fewer keep the first weights, divided by their sum: another measure, comparable with itself
            only; ``ssim_scales`` tells how many fit.

    Returns:
        (N,), as ``psnr``.
    """
    if not 1 <= scales <= len(MS_SSIM_WEIGHTS):
        raise ValueError(f"scales takes 1 to {len(MS_SSIM_WEIGHTS)}, got {scales}")
    a, b = _pair(a, b, data_range)
    _check_size(a, scales)
    weights = torch.tensor(MS_SSIM_WEIGHTS[:scales], dtype=a.dtype, device=a.device)
    product = 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        luminance, contrast_structure = _terms(a, b, data_range)
        term = contrast_structure if scale < scales - 1 else luminance * contrast_structure
        product = product * term.mean((2, 3)).clamp(min=0) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return product.mean(1)


def ssim_scales(image_size: int) -> int:
    """How many scales of MS-SSIM fit into images of so many pixels a side; 0: not even SSIM's window."""
    return min(len(MS_SSIM_WEIGHTS), max(0, image_size // WINDOW).bit_length())


def _pair(a: torch.Tensor, b: torch.Tensor, data_range: float) -> tuple[torch.Tensor, torch.Tensor]:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"two batches of images (N, C, H, W) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise TypeError(f"images takes floating values, got {a.dtype} and {b.dtype}")
    if not data_range > 0:
        raise ValueError(f"data_range takes a positive number, got {data_range!r}")
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    return a.to(dtype), b.to(dtype)


def _check_size(images: torch.Tensor, scales: int) -> None:
    least, side = WINDOW << (scales - 1), min(images.shape[2:])
    if side < least:
        fit = ssim_scales(side)
        hint = f"; scales={fit} fits" if fit else ""
        raise ValueError(f"SSIM of {scales} scales takes images of at least {least} pixels a side, got {side}{hint}")


def _terms(a: torch.Tensor, b: torch.Tensor, data_range: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Luminance and contrast-structure at every window, (N, C, H - 10, W - 10) each; their product is SSIM."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    moments = _blur(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, cross = moments.chunk(5)
    variances = square_a - mean_a.square() + square_b - mean_b.square()
    covariance = cross - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _blur(images: torch.Tensor) -> torch.Tensor:
    """The Gaussian window, columns then rows, without padding."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()
    planes = images.reshape(-1, 1, *images.shape[2:])
    planes = F.conv2d(F.conv2d(planes, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return planes.reshape(*images.shape[:2], *planes.shape[2:])
