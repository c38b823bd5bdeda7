"""What is benchmarked: a case, its providers, and the work that each provider sets up.

A case is one operation at one shape. A provider is one way to do it: plain PyTorch in some layout, or fastgan. Every
provider sets up from the same seed, so that all of them work on equal inputs, and says what it computed, so that they
can be compared before they are timed. Cases are frozen dataclasses: they travel to the process that measures memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch

from fastgan.bench.floor import Work
from fastgan.ops import _dispatch, _library

__all__ = [
    "COMPILED",
    "COPY",
    "EAGER",
    "GRADIENT",
    "GRAPH",
    "MODES",
    "OURS",
    "SEED",
    "Case",
    "Workload",
    "autocast",
    "base_of",
    "begin_step",
    "compile_options",
    "implementation_of",
    "is_graphed",
    "is_ours",
    "layout_of",
    "working_dtype",
]

# What a row times. "eval" is the forward pass without gradients, on running statistics.
MODES = ("forward", "backward", "both", "eval", "step")

EAGER = ("eager", "eager channels_last")
OURS = ("fastgan", "fastgan channels_last")
COMPILED = ("compile", "compile channels_last")
COPY = "copy"  # of as many bytes as the work has to move: neither side's, but what both are measured against
GRAPH = " + graph"  # behind a provider's name: its work captured in a CUDA graph (workloads.py)
SEED = 20

GRADIENT = "grad of "  # how the names of gradients among the results begin


@dataclass
class Workload:
    """One provider's work, ready to run."""

    modes: dict[str, Callable[[], object]]  # by mode: the function to time; may be called any number of times
    results: Callable[[], dict[str, torch.Tensor]]  # everything that has to agree; called once, before any timing
    implementation: str = "PyTorch"  # what runs underneath
    state: Callable[[], list[torch.Tensor]] = list  # tensors that the work changes in place; new ones began as zeros


class Case(ABC):
    """One operation at one shape."""

    op: ClassVar[str]  # as in fastgan.ops
    bar: float = 0.97  # the least speed-up over the strongest PyTorch; 0.97 is "never slower"
    memory_bar: float | None = None  # the most peak memory beside the strongest PyTorch's, where one is set
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    patience: float = 1.0  # times the budget of a row
    depth: int = 1  # layers between input and results: rounding errors grow with it
    quick: bool = False  # part of a quick run
    rotates: bool = False  # on a GPU, measured over several sets of tensors: one would stay in its cache

    @property
    @abstractmethod
    def name(self) -> str:
        """The shape in words; unique within the op."""

    @property
    @abstractmethod
    def modes(self) -> tuple[str, ...]:
        """The modes timed, each a row."""

    @abstractmethod
    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        """The providers compared in ``mode``; torch.compile's only where ``compiled``."""

    def work(self, mode: str, dtype: torch.dtype) -> Work | None:
        """The fewest bytes and floating-point operations of one call; None where nobody has counted them."""
        return None

    def cuda_goals(self, mode: str, precision: str) -> dict[str, float]:
        """What is asked for on a GPU, in "float32", "tf32", "bfloat16" or "float16".

        The least speed-up over "eager" (in the same precision) and over the "strongest" PyTorch there, and the least
        share of the speed of a "copy" of the same bytes.
        """
        return {}

    @abstractmethod
    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        """The work of one provider. ``upcast``: the same inputs, rounded to ``dtype``, computed in float64.

        A provider that is_graphed is set up so that its work can be captured; workloads.py captures it.
        """

    def __str__(self) -> str:
        return f"{self.op} {self.name}"


def is_ours(provider: str) -> bool:
    return provider.startswith("fastgan")


def is_graphed(provider: str) -> bool:
    return provider.endswith(GRAPH)


def base_of(provider: str) -> str:
    """The provider whose work a graphed one captures; any other is itself."""
    return provider.removesuffix(GRAPH)


def layout_of(provider: str) -> torch.memory_format:
    return torch.channels_last if base_of(provider).endswith("channels_last") else torch.contiguous_format


def compile_options(provider: str, device: torch.device) -> dict[str, str]:
    """torch.compile's strongest mode on a GPU; its own graphs make way where the whole work is captured."""
    if device.type != "cuda":
        return {}
    return {"mode": "max-autotune-no-cudagraphs" if is_graphed(provider) else "max-autotune"}


def working_dtype(dtype: torch.dtype, upcast: bool) -> torch.dtype:
    return torch.float64 if upcast else dtype


def autocast(dtype: torch.dtype, device: torch.device, upcast: bool) -> AbstractContextManager:
    """Half precision of a network with float32 parameters; nothing to do for float32 and for the float64 oracle."""
    if upcast or dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def begin_step(provider: str, device: torch.device) -> None:
    """Tell torch.compile's own graphs that what they returned so far may be written over."""
    if device.type == "cuda" and provider in COMPILED:
        torch.compiler.cudagraph_mark_step_begin()


def implementation_of(op: str, *tensors: torch.Tensor | None, worthwhile: bool = True) -> str:
    """What fastgan takes for ``op`` on such tensors: "kernel CPU AVX512", "kernel CUDA sm_90" or "reference".

    worthwhile: as ``use_kernel`` takes it.
    """
    if not _dispatch.use_kernel(op, *tensors, worthwhile=worthwhile):
        return "reference"
    device = next(t.device for t in tensors if t is not None)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"kernel CUDA sm_{major}{minor}"
    return f"kernel CPU {_library.C.cpu_capability()}"
