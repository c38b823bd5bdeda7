"""ADA: Karras, Aittala, Hellsten, Laine, Lehtinen, Aila, "Training Generative Adversarial Networks with Limited Data",
NeurIPS 2020: augmentations of the discriminator's pictures, each with a probability p that follows its overfitting.

The pipeline is appendix B's, its first thirteen transformations in its order: pixel blitting (flip, quarter turns,
whole-pixel translation), general geometry (scale, rotation, stretch, rotation, translation) and color (brightness,
contrast, luma flip, hue, saturation). Filtering in frequency bands, noise and cutout are left out, as the paper's
"bgc", which it found best, does.

Overfitting is r_t = E[sign(D(real))] (equation 1), 0 where none is, 1 where the discriminator is sure of every real
picture; p moves by a fixed amount towards more where r_t lies above its target and towards less where below.

Differs from the paper: edges are mirrored at the sampling and not by a padding whose size depends on the numbers drawn
(which would make the host wait for the device); pictures that no geometry was drawn for pass untouched.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["AdaptiveAugment"]

# sym6, the orthogonal low-pass filter of 12 taps (Daubechies, "Ten Lectures on Wavelets", table 6.3): doubling the
# resolution by it and halving it again is the identity, since sum_k h[k] h[k + 2m] = [m == 0]
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
TAPS = len(SYM6)
# Index of the tap that a sample lies at: the filter's centre of mass, 5.10, as a whole number
CENTRE = 5


class AdaptiveAugment(nn.Module):
    """Pictures (N, C, H, W) in [-1, 1], C of 1 or 3 -> pictures of that shape, each transformation with probability p.

    ``observe(logits)``, called with the discriminator's logits of every batch of (augmented) real pictures, moves p.
    All state is in buffers and nothing waits for the device. Differentiable to any order.

    Args:
        target: of r_t.
        images: real images in which p can go from 0 to 1.
        interval: batches between two adjustments.
    """

    def __init__(self, target: float = 0.6, images: int = 500_000, interval: int = 4) -> None:
        super().__init__()
        if not (0 < target < 1 and images >= 1 and interval >= 1):
            raise ValueError(
                f"target takes a number between 0 and 1, images and interval at least 1, got {target}, {images} and "
                f"{interval}"
            )
        self.target, self.images, self.interval = target, images, interval
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))  # since the last adjustment: sum of sign(D(real))
        self.register_buffer("logits", torch.zeros(()))  # how many of them
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("taps", torch.tensor(SYM6), persistent=False)

    @torch.no_grad()
    def observe(self, logits: torch.Tensor) -> None:
        self.signs += logits.detach().sign().sum()
        self.logits += logits.numel()
        self.batches += 1
        due = (self.batches >= self.interval).to(self.p.dtype)
        step = torch.sign(self.signs / self.logits - self.target) * self.logits / self.images
        self.p.add_(due * step).clamp_(0, 1)
        for total in (self.signs, self.logits, self.batches):
            total.mul_(1 - due)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"ada takes pictures of 1 or 3 channels, got {x.shape[1]}: use diffaugment")
        return _colored(_warped(x, self.p, self.taps), self.p)

    def extra_repr(self) -> str:
        return f"target={self.target}, images={self.images}, interval={self.interval}"


# -- drawing -----------------------------------------------------------------------------------------------------------


class _Draw:
    """Random numbers (N,) for N pictures; each transformation is applied to a picture with probability p."""

    def __init__(self, x: torch.Tensor, p: torch.Tensor) -> None:
        self.like = {"dtype": torch.float32, "device": x.device}
        self.n, self.p = len(x), p.to(torch.float32)

    def often(self, value: torch.Tensor, neutral: float, p: torch.Tensor | None = None) -> torch.Tensor:
        chosen = torch.rand(self.n, **self.like) < (self.p if p is None else p)
        return torch.where(chosen, value, torch.full_like(value, neutral))

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(self.n, **self.like)

    def whole(self, count: int) -> torch.Tensor:
        """From 0 to count - 1."""
        return torch.randint(count, (self.n,), device=self.like["device"]).float()

    def normal(self, std: float) -> torch.Tensor:
        return std * torch.randn(self.n, **self.like)

    def factor(self, octaves: float) -> torch.Tensor:
        """Log-normal: 2 to a normal number."""
        return torch.exp2(self.normal(octaves))


def _matrix(rows: list[list], like: torch.Tensor) -> torch.Tensor:
    """(N, R, C) from rows of numbers and tensors (N,)."""
    return torch.stack(
        [
            torch.stack([e if isinstance(e, torch.Tensor) else torch.full_like(like, e) for e in row], -1)
            for row in rows
        ],
        -2,
    )


# -- geometry ----------------------------------------------------------------------------------------------------------


def _inverse_geometry(draw: _Draw, height: int, width: int) -> torch.Tensor:
    """(N, 3, 3): where in the original, in pixels from the centre, a pixel of the transformed picture comes from.

    The inverse of transformations applied one after the other is the product of their inverses in that order.
    """

    def scale(x, y):
        return _matrix([[1 / x, 0, 0], [0, 1 / y, 0], [0, 0, 1]], x)

    def rotate(angle):
        cos, sin = angle.cos(), angle.sin()
        return _matrix([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], angle)

    def translate(x, y):
        return _matrix([[1, 0, -x], [0, 1, -y], [0, 0, 1]], x)

    flip = draw.often(1 - 2 * draw.whole(2), 1)
    turns = draw.often(draw.whole(4), 0)
    shift = [draw.uniform(-0.125, 0.125) for _ in range(2)]
    shifted = draw.often(torch.ones_like(flip), 0)
    isotropic = draw.often(draw.factor(0.2), 1)
    once = 1 - (1 - draw.p).sqrt()  # of either rotation, so that at least one happens with probability p
    before = draw.often(draw.uniform(-math.pi, math.pi), 0, once)
    stretch = draw.often(draw.factor(0.2), 1)
    after = draw.often(draw.uniform(-math.pi, math.pi), 0, once)
    move = [draw.normal(0.125) for _ in range(2)]
    moved = draw.often(torch.ones_like(flip), 0)
    steps = [
        scale(flip, torch.ones_like(flip)),
        rotate(turns * (math.pi / 2)),
        translate((shift[0] * width).round() * shifted, (shift[1] * height).round() * shifted),
        scale(isotropic, isotropic),
        rotate(before),
        scale(stretch, 1 / stretch),
        rotate(after),
        translate(move[0] * width * moved, move[1] * height * moved),
    ]
    inverse = steps[0]
    for step in steps[1:]:
        inverse = inverse @ step
    return inverse


def _warped(x: torch.Tensor, p: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Blitting and geometry in one resampling, at twice the resolution between two low-pass filters (appendix B)."""
    n, _, height, width = x.shape
    if min(height, width) < TAPS // 2 + 1:
        raise ValueError(
            f"ada takes pictures of at least {TAPS // 2 + 1} pixels, got {height}x{width}: use diffaugment"
        )
    inverse = _inverse_geometry(_Draw(x, p), height, width)
    fine = _resampled(x, _doubling(taps, height), _doubling(taps, width))
    # sample i of an axis of the doubled picture lies (i - CENTRE) / 2 pixels from the first pixel's centre; the output
    # has all that the halving filter reads, the input begins and ends at the picture's first and last pixel
    rows, columns = (
        (torch.arange(2 * size + TAPS - 2, device=x.device, dtype=torch.float32) - CENTRE) / 2 - (size - 1) / 2
        for size in (height, width)
    )
    place = torch.stack(
        [
            columns.expand(len(rows), -1),
            rows[:, None].expand(-1, len(columns)),
            torch.ones_like(rows[:, None] + columns),
        ],
        -1,
    )
    origin = torch.einsum("nij,hwj->ihwn", inverse[:, :2], place).unbind()
    grid = torch.stack([origin[0] * (2 / (width - 1)), origin[1] * (2 / (height - 1))]).permute(
        3, 1, 2, 0
    )  # in [-1, 1]
    warped = _Sample.apply(fine, grid.to(x.dtype).contiguous())
    warped = _resampled(warped, _halving(taps, height), _halving(taps, width))
    untouched = (inverse == torch.eye(3, device=x.device)).all(2).all(1)
    return torch.where(untouched.view(n, 1, 1, 1), x, warped)


def _filter(taps: torch.Tensor, rows: torch.Tensor, columns: int) -> torch.Tensor:
    """(R, columns): sample r takes taps[rows[r] - 2 c] of sample c. As a matrix, since a product with a small dense one
    is faster than a convolution of single channels, which both of its derivatives are again."""
    tap = rows[:, None] - 2 * torch.arange(columns, device=taps.device)
    return taps[tap.clamp(0, TAPS - 1)] * ((tap >= 0) & (tap < TAPS))


def _doubling(taps: torch.Tensor, size: int) -> torch.Tensor:
    """(2 size - 1, size): from the first pixel to the last, and one sample between every two; edges are mirrored."""
    margin = TAPS // 2
    samples = torch.arange(2 * size - 1, device=taps.device) + 2 * margin + CENTRE
    padded = _filter(taps, samples, size + 2 * margin)
    mirrored = (torch.arange(-margin, size + margin, device=taps.device)).abs()
    mirrored = size - 1 - (size - 1 - mirrored).abs()
    return torch.zeros(2 * size - 1, size, device=taps.device).index_add(1, mirrored, padded)


def _halving(taps: torch.Tensor, size: int) -> torch.Tensor:
    """(size, 2 size + TAPS - 2), the adjoint of doubling without edges."""
    return _filter(taps, torch.arange(2 * size + TAPS - 2, device=taps.device), size).T


def _resampled(x: torch.Tensor, vertical: torch.Tensor, horizontal: torch.Tensor) -> torch.Tensor:
    return vertical.to(x.dtype) @ x @ horizontal.T.to(x.dtype)


# bilinear, mirrored at the centres of the outermost samples
_MODE = {"interpolation_mode": 0, "padding_mode": 2, "align_corners": True}


class _Sample(torch.autograd.Function):
    """grid_sample as a linear function of the picture alone. Its own backward has no derivative in torch, which a
    gradient penalty needs; a linear function's is its adjoint, whose derivative is the function again."""

    @staticmethod
    def forward(ctx, x, grid):
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return torch.ops.aten.grid_sampler_2d(x, grid, **_MODE)

    @staticmethod
    def backward(ctx, cotangent):
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(cotangent, grid, ctx.shape), None


class _SampleAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cotangent, grid, shape):
        ctx.save_for_backward(grid)
        like = cotangent.new_empty(1).expand(shape)  # only its shape is read
        return torch.ops.aten.grid_sampler_2d_backward(cotangent, like, grid, **_MODE, output_mask=[True, False])[0]

    @staticmethod
    def backward(ctx, cotangent):
        (grid,) = ctx.saved_tensors
        return _Sample.apply(cotangent, grid), None, None


# -- color -------------------------------------------------------------------------------------------------------------


def _colored(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """One affine map of (r, g, b) a picture; grey pictures take its mean over the three."""
    matrix = _color_matrix(_Draw(x, p)).to(x.dtype)
    linear, offset = matrix[:, :3, :3], matrix[:, :3, 3]
    if x.shape[1] == 1:
        linear, offset = linear.sum(2).mean(1)[:, None, None], offset.mean(1, keepdim=True)
    return torch.einsum("nij,njhw->nihw", linear, x) + offset[:, :, None, None]


def _color_matrix(draw: _Draw) -> torch.Tensor:
    """(N, 4, 4) on (r, g, b, 1): later transformations stand to the left."""
    brightness = draw.often(draw.normal(0.2), 0)
    contrast = draw.often(draw.factor(0.5), 1)
    flip = draw.often(draw.whole(2), 0)
    angle = draw.often(draw.uniform(-math.pi, math.pi), 0)
    saturation = draw.often(draw.factor(1.0), 1)

    eye = torch.eye(4, device=brightness.device)
    ones = 1 - eye[3]
    luma = torch.outer(ones, ones) / 3  # projection on the grey axis
    colors = torch.diag(ones) - luma
    last = eye - torch.diag(ones)
    cycle = F.pad(torch.eye(3, device=eye.device).roll(1, 0), (0, 1, 0, 1))
    turn = (cycle - cycle.T) / math.sqrt(3)  # cross product with the grey axis: turns hues by a quarter

    def of(number: torch.Tensor) -> torch.Tensor:
        return number.view(-1, 1, 1)

    shift = eye + of(brightness) * torch.outer(ones, eye[3])
    scale = of(contrast) * torch.diag(ones) + last
    flipped = eye - 2 * of(flip) * luma
    hue = luma + last + of(angle.cos()) * colors + of(angle.sin()) * turn
    vivid = luma + last + of(saturation) * colors
    return vivid @ hue @ flipped @ scale @ shift
