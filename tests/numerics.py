"""How far a result may lie from the exact one: every numerical bound of the tests, and where it comes from.

Three results are compared: ``actual`` (what is tested), ``baseline`` (the same formula in plain PyTorch, in the dtype
under test) and ``oracle`` (the same formula in float64). The baseline's distance from the oracle is the rounding error
that nobody would call a bug, for exactly these shapes and values. A kernel orders its sums in another way, which moves
that error within the same order of magnitude; hence twice of it, in L2 and in the maximum norm, and one unit in the
last place of the largest value, because a baseline can be exact by luck.

In float64 the oracle itself rounds and cannot judge: there, the a priori bound of a sum of K terms, K * eps, takes
over, with K = 4096 above every reduction length used in the tests.

Batch statistics are a case of their own: torch's CPU kernels sum them in float64, so that the baseline has no rounding
error to compare with; CUDA kernels, like cuDNN's, in float32, about a pivot near the mean. That costs up to 2 ulps for
the order of the sums and twice that for what cancels; SUM_ULPS is twice that again, because the largest error of many
channels counts. (36 draws of 8 to 10 channels gave 0.9 to 4.1 ulps of the variance, for the mean 1.2 of the deviation.)

Winograd's convolutions are less exact than plain sums, by a constant of the algorithm; assert_within_winograd has their
bound.

A gradient that is zero by cancellation (a bias in front of a train-mode BatchNorm) has no scale of its own; ``scale``
then names the size of the terms that cancelled, or the tensor whose values they are.
"""

from __future__ import annotations

import torch

TIMES_BASELINE = 2.0
LONGEST_SUM = 4096
SUM_ULPS = 8
WINOGRAD_L2 = {2: 2e-6, 3: 3e-6}  # by taps of a phase
WINOGRAD_MAX = {2: 1e-5, 3: 1.5e-5}


def assert_within_oracle(
    actual: torch.Tensor,
    oracle: torch.Tensor,
    baseline: torch.Tensor,
    name: str = "result",
    scale: float | torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    ulps: int = 1,
) -> None:
    """``actual`` is as near to ``oracle`` as the bound above asks, in L2 and in the maximum norm.

    dtype: the dtype under test where it is not actual's (float32 statistics of bfloat16 data).
    ulps: units in the last place allowed beside twice the baseline's error: SUM_ULPS for batch statistics of a CUDA
    kernel and for what they normalise.
    """
    assert actual.shape == oracle.shape, f"{name} has shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    assert not oracle.numel() or torch.isfinite(oracle).all(), f"the oracle of {name} is not finite"
    dtype = dtype or actual.dtype
    exact = oracle.detach().double()
    error, allowed = actual.detach().double() - exact, baseline.detach().double() - exact
    ulp = torch.finfo(dtype).eps * (LONGEST_SUM if dtype == torch.float64 else ulps)
    for norm, order in (("L2", 2), ("max", float("inf"))):
        if not exact.numel():
            continue
        sized = exact if scale is None else scale
        size = torch.linalg.vector_norm(sized.detach().double(), order).item() if torch.is_tensor(sized) else sized
        bound = TIMES_BASELINE * torch.linalg.vector_norm(allowed, order).item() + ulp * size
        found = torch.linalg.vector_norm(error, order).item()
        assert found <= bound, f"{name}: {norm} error {found:.3g}, allowed {bound:.3g} (values of size {size:.3g})"


def assert_rounding_equal(actual: torch.Tensor, expected: torch.Tensor, name: str = "result", ulps: int = 64) -> None:
    """Two correct evaluations in one dtype: they differ by rounding, ``ulps`` units of the largest value at most."""
    assert actual.shape == expected.shape, f"{name} has shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not expected.numel():
        return
    dtype = min((actual.dtype, expected.dtype), key=lambda d: -torch.finfo(d).eps)
    size = expected.detach().double().abs().max().item()
    found = (actual.detach().double() - expected.detach().double()).abs().max().item()
    bound = ulps * torch.finfo(dtype).eps * max(size, torch.finfo(dtype).tiny)
    assert found <= bound, f"{name}: error {found:.3g}, allowed {bound:.3g} (values of size {size:.3g})"


def assert_within_winograd(
    actual: torch.Tensor, oracle: torch.Tensor, name: str = "result", scale: float | None = None, taps: int = 2
) -> None:
    """``actual``, float32 and by Winograd, is as near to ``oracle`` as that algorithm's rounding allows.

    taps: of a phase along an axis, 2 (kernel 4, or 3 with stride 2: F(4x4, 2x2)) or 3 (kernel 3 with stride 1, kernel 5
    with stride 2: F(4x4, 3x3)).

    2 taps: the transforms evaluate polynomials of degree 3 at the points 0, 1/2, -1, 2 and infinity (factors of up to 8
    an axis) and interpolate (up to 5): terms grow and cancel again, so that the error is a constant of the points times
    the unit roundoff 6e-8, whatever the length of the sum, and no multiple of a plain sum's. Measured against float64,
    in relative L2: 0.8e-6 to 1.2e-6, for the output and both gradients, all shapes and instruction sets, and up to
    1.8e-6 where an activation or a normalisation takes the largest values away; the bound is 2e-6. A single element may
    be off by 1e-5 of the largest value.

    3 taps: a sixth point, {0, 1/2, -1/2, 2, -2, infinity}, and interpolation by a polynomial of one degree more, whose
    constant is 1.6 times that: 1.2e-6 to 1.9e-6 measured, up to 2.5e-6 behind activation and normalisation. (The points
    0, 1, -1, 2, -2, infinity would be 1.6 times worse still.) The bounds are 3e-6 and 1.5e-5.

    scale: as in assert_within_oracle.
    """
    assert actual.dtype == torch.float32
    assert actual.shape == oracle.shape, f"{name} has shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    exact = oracle.detach().double()
    assert torch.isfinite(exact).all(), f"the oracle of {name} is not finite"
    error = actual.detach().double() - exact
    for norm, order, bound in (("L2", 2, WINOGRAD_L2[taps]), ("max", float("inf"), WINOGRAD_MAX[taps])):
        size = torch.linalg.vector_norm(exact, order).item() if scale is None else scale
        found = torch.linalg.vector_norm(error, order).item()
        assert found <= bound * size, f"{name}: {norm} error {found:.3g}, allowed {bound * size:.3g}"


def assert_within_float_sums(
    actual: torch.Tensor, oracle: torch.Tensor, magnitude: torch.Tensor, terms: int, name: str = "result"
) -> None:
    """``actual`` is a sum of ``terms`` exact products added in float32, in any order, and rounded once to its dtype.

    magnitude: the same sum over the absolute values of the products, element by element. Adding floats in any order
    errs by at most terms * 2**-24 of it (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 4.2); products
    of two bfloat16, float16 or tf32 numbers have at most 22 bits and are exact. The rounding at the end is half a unit
    in the last place of the result, or of the smallest normal number.
    """
    assert actual.shape == oracle.shape, f"{name} has shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    info = torch.finfo(actual.dtype)
    rounding = info.eps / 2 * oracle.abs().clamp_min(info.tiny)
    bound = terms * 2.0**-24 * magnitude * (1 + info.eps) + rounding
    excess = (actual.double() - oracle).abs() / bound
    assert excess.max().item() <= 1, f"{name}: an error is {excess.max().item():.3g} times what it may be"
