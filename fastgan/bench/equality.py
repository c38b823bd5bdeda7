"""Both sides of a benchmark compute the same thing: each provider against PyTorch in float64, before any timing.

Errors are relative, ||a - b|| / ||b||, over each tensor that a provider returns; a gradient that cancels to nothing
(the last bias of a Wasserstein critic) is held to 1e-4 of the largest gradient's norm instead of its own. The bounds
are there to catch a wrong formula, a missing gradient or a skipped layer, all of which err by percents at least; the
tests own the strict ones.

    a layer's output    BOUND[dtype]: a few roundings of the dtype; of TF32 where cuDNN may use it, and in float32 those
                        of Winograd's and Fourier's convolutions, which it may choose
    behind d layers     d times that
    a gradient          2 sqrt(d BOUND): an output that is off by e turns the sign of about e of its elements, and the
                        gradient of each of them changes whole: the squared error is e of the squared norm
"""

from __future__ import annotations

import torch

from fastgan.bench.case import GRADIENT, Case

__all__ = ["UnequalError", "check_equal", "oracle"]

BOUND = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
TF32_BOUND = 4e-3
CUDNN_BOUND = 1e-4
CANCELLED = 1e-4
LOOSEST = 0.5  # a zero gradient errs by 1, another sign by 2


class UnequalError(AssertionError):
    """Two providers of a case computed different things: timing them would compare nothing."""


def oracle(case: Case, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
    """What the case's first provider, plain PyTorch, computes in float64 from inputs rounded to ``dtype``."""
    return case.setup(case.providers(case.modes[0], compiled=False)[0], dtype, device, upcast=True).results()


def check_equal(
    case: Case, provider: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    """Raise UnequalError, naming case, provider and tensor, unless ``found`` is ``expected`` up to rounding."""
    if found.keys() != expected.keys():
        missing = sorted(found.keys() ^ expected.keys())
        raise UnequalError(f"{case}: {provider} and float64 PyTorch return different tensors: {', '.join(missing)}")
    gradients = [t for name, t in expected.items() if is_gradient(name)]
    largest = max((torch.linalg.vector_norm(t).item() for t in gradients), default=0.0)
    for name, right in expected.items():
        value = found[name]
        if value.shape != right.shape:
            raise UnequalError(
                f"{case}: {name} of {provider} has shape {tuple(value.shape)}, of float64 PyTorch {tuple(right.shape)}"
            )
        error = relative_error(value, right, CANCELLED * largest if is_gradient(name) else 0.0)
        bound = _bound(case, name, dtype, value.device)
        if not error <= bound:  # a NaN is an error too
            raise UnequalError(
                f"{case}: {name} of {provider} is {error:.1e} off float64 PyTorch; the bound is {bound:.1e}"
            )


def is_gradient(name: str) -> bool:
    return name.startswith(GRADIENT)


def relative_error(value: torch.Tensor, right: torch.Tensor, least_scale: float = 0.0) -> float:
    """||value - right|| / max(||right||, least_scale); the absolute error where both are zero."""
    value, right = value.double(), right.double()
    scale = max(torch.linalg.vector_norm(right).item(), least_scale)
    return torch.linalg.vector_norm(value - right).item() / (scale or 1.0)


def _bound(case: Case, name: str, dtype: torch.dtype, device: torch.device) -> float:
    bound = BOUND[dtype]
    if dtype == torch.float32 and device.type == "cuda":
        bound = TF32_BOUND if torch.backends.cudnn.allow_tf32 else CUDNN_BOUND
    bound *= case.depth
    return min(2 * bound**0.5 if is_gradient(name) else bound, LOOSEST)
