"""The one switch between reference and kernel: ``auto`` | ``reference`` | ``kernel``.

``auto`` takes a kernel where one covers the call and falls back to the reference silently; ``kernel`` raises where none
does, and says why. The choice is made in an op's forward; its backward belongs to the same graph and so follows it.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

import torch

from fastgan.ops import _library

__all__ = ["IMPLEMENTATIONS", "autocasts", "current", "kernel_gap", "kernels", "transformed", "use", "use_kernel"]

IMPLEMENTATIONS = ("auto", "reference", "kernel")
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Compute capabilities on which the kernels were seen to be right; on others `auto` leaves them out. An entry needs a
# file of benchmarks/gpu_check.py in benchmarks/results: all checks, none failed, of that capability, with its commit.
VERIFIED_CUDA: frozenset[tuple[int, int]] = frozenset()
_HAS_CUDA = _library.LOADED and bool(_library.C.build_info().get("cuda"))  # read once: torch.compile cannot trace it


def _checked(implementation: str, source: str) -> str:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{source} is {implementation!r}; it takes one of {', '.join(IMPLEMENTATIONS)}")
    return implementation


# Read once, at import. A module global and not a contextvar, which torch.compile(fullgraph=True) cannot trace.
_implementation = _checked(os.environ.get("FASTGAN_IMPL", "auto"), "the environment variable FASTGAN_IMPL")


class use:
    """Choose the implementation of every fastgan op inside a ``with`` block: "auto", "reference" or "kernel".

    The setting belongs to the process, not to the thread. "kernel" makes an op raise where no kernel covers the call.
    """

    def __init__(self, implementation: str) -> None:
        self.implementation = _checked(implementation, "implementation")

    def __enter__(self) -> None:
        global _implementation
        self.previous = _implementation
        _implementation = self.implementation

    def __exit__(self, *exc: object) -> None:
        global _implementation
        _implementation = self.previous


def current() -> str:
    """The implementation chosen now: "auto", "reference" or "kernel"."""
    return _implementation


def kernel_gap(*tensors: torch.Tensor | None) -> str | None:
    """Why no kernel covers a call with these tensors; None where one does. Optional tensors may be None."""
    if not _library.LOADED:
        return _library.REASON
    present = [t for t in tensors if t is not None]
    device = present[0].device
    for t in present:
        if t.device != device:
            return f"tensors lie on {device} and {t.device}"
        if t.dtype not in KERNEL_DTYPES:
            return f"dtype {t.dtype} has no kernel (float32, bfloat16, float16, float64 have)"
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"device {device.type!r} has no kernel (cpu and cuda have)"
    if not _HAS_CUDA:
        return "the extension was built without CUDA kernels"
    if any(t.dtype == torch.float64 for t in present):
        return "float64 has no CUDA kernel"
    return device_gap(device)


def device_gap(device: torch.device) -> str | None:
    """Why this build's CUDA kernels cannot run on ``device`` with this machine's driver; None where they can."""
    return _device_gap(device)


@lru_cache
def _device_gap(device: torch.device) -> str | None:
    build = _library.C.build_info()
    built, driver = int(build["cuda"].split(".")[0]), driver_version()
    if driver[0] < built:  # minor versions of one CUDA are compatible with each other, in both directions
        return (
            f"the kernels were built with CUDA {build['cuda']} and the driver is for CUDA {driver[0]}.{driver[1]}: "
            "update the driver, or reinstall fastgan with an nvcc of the driver's CUDA"
        )
    oldest = min(map(int, re.findall(r"sm_(\d+)", build["cuda_archs"])))
    major, minor = torch.cuda.get_device_capability(device)
    if 10 * major + minor < oldest:
        return f"the kernels were built for {build['cuda_archs']} and {device} is sm_{major}{minor}"
    return None


def driver_version() -> tuple[int, int]:
    """The newest CUDA that this machine's driver serves, as (major, minor)."""
    version = torch._C._cuda_getDriverVersion()
    return version // 1000, version % 1000 // 10


# torch.compile takes the results as constants; torch.compiler.assume_constant_result says the same, but imports dynamo
device_gap._dynamo_marked_constant = True


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation acts on calls made now; compiled ops follow neither."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0


def autocasts(device: str) -> bool:
    """Whether torch casts operands of calls made now on this type of device; of some, as meta, it knows nothing."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _out_of_auto(device: torch.device) -> bool:
    """Whether ``auto`` leaves kernels alone here although they exist."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return True  # exported graphs hold plain aten, which every runtime knows
    return device.type == "cuda" and torch.cuda.get_device_capability(device) not in VERIFIED_CUDA


def has_cuda_kernels() -> bool:
    """Whether the loaded extension was built with CUDA kernels."""
    return _HAS_CUDA


def kernels() -> list[str]:
    """Names of the ops that have a compiled CPU kernel here."""
    names = (name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastgan::"))
    return sorted(n for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(f"fastgan::{n}", "CPU"))


def use_kernel(op: str, *tensors: torch.Tensor | None, gap: str | None = None, worthwhile: bool = True) -> bool:
    """Decide for one call of ``op``.

    gap: a reason of the op's own why no kernel covers the call. worthwhile: False where a kernel covers it but gains
    nothing, so that ``auto`` takes the reference.

    Raises NotImplementedError where the choice is "kernel" and no kernel covers the call.
    """
    if _implementation == "reference" or (_implementation == "auto" and not worthwhile):
        return False
    gap = gap or kernel_gap(*tensors)
    if gap is None and transformed():
        gap = "no kernel works under torch.func or forward-mode differentiation"
    if gap is None:
        device = next(t.device for t in tensors if t is not None)
        return _implementation == "kernel" or not _out_of_auto(device)
    if _implementation == "kernel":
        raise NotImplementedError(
            f"fastgan.ops.{op}: implementation 'kernel' was asked for, but {gap}. "
            f"Kernels here: {', '.join(kernels()) or 'none'}. Use 'auto' or 'reference' instead."
        )
    return False
