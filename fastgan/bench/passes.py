"""Rows of the passes over memory between convolutions: BatchNorm's four and the gradient penalty's three.

Measured on GPUs, where they are bound by memory and a copy of the same bytes is what they are held against; both in
several sets of tensors, so that neither is served from the cache. PyTorch's side is the same formula, eager and
compiled into one or two kernels; its BatchNorm as a whole, which has no such passes, is in the rows of the layers.
Images in channels_last, as networks on GPUs have them, and one in NCHW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch

from fastgan import ops
from fastgan.bench.case import SEED, Case, Workload, base_of, compile_options, implementation_of, working_dtype
from fastgan.bench.floor import Work, bytes_of
from fastgan.bench.shapes import CHANNELS, DISCRIMINATOR, IMAGE_SIZE
from fastgan.ops import _penalty_ops

__all__ = ["PassCase", "cases"]

Shape = tuple[int, int, int, int]
Inputs = tuple[object, ...]
NEGATIVE_SLOPE = 0.2
ACTIVATION = ("leaky_relu", NEGATIVE_SLOPE)
LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}


class Draw:
    """Tensors of a fixed seed, images in one layout; made on the device, since a pass has many sets of them."""

    def __init__(self, shape: Shape, layout: torch.memory_format, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.layout, self.dtype, self.device = shape, layout, dtype, device
        self.generator = torch.Generator(device).manual_seed(SEED)

    def vector(self, size: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
        return torch.empty(size, device=self.device).normal_(mean, std, generator=self.generator)

    def image(self) -> torch.Tensor:
        image = torch.empty(self.shape, device=self.device).normal_(generator=self.generator)
        return image.to(self.dtype).contiguous(memory_format=self.layout)

    def affine(self) -> tuple[torch.Tensor, ...]:
        """mean, invstd, gamma, beta of the channels."""
        c = self.shape[1]
        return self.vector(c), self.vector(c).abs() + 0.5, self.vector(c, 1.0, 0.1), self.vector(c)


def _bn_act_inputs(draw: Draw) -> Inputs:
    return draw.image(), *draw.affine(), *ACTIVATION


def _reduce_inputs(draw: Draw) -> Inputs:
    grad_y, z = draw.image(), draw.image()
    return grad_y, z, z, *draw.affine(), *ACTIVATION  # in place of y, of which leaky_relu's passes take nothing


def _elemt_inputs(draw: Draw) -> Inputs:
    grad_y, z = draw.image(), draw.image()
    means = (draw.vector(draw.shape[1], std=0.1) for _ in range(2))
    return grad_y, z, z, *draw.affine(), *means, *ACTIVATION


def _interpolate_inputs(draw: Draw) -> Inputs:
    return draw.image(), draw.image(), draw.vector(draw.shape[0]).sigmoid()


# What each pass is called with, and the call.
PASSES: dict[str, tuple[Callable[[Draw], Inputs], Callable[..., object]]] = {
    "bn_stats": (lambda draw: (draw.image(),), ops.bn_stats),
    "bn_act": (_bn_act_inputs, ops.bn_act),
    "bn_act_backward_reduce": (_reduce_inputs, ops.bn_act_backward_reduce),
    "bn_act_backward_elemt": (_elemt_inputs, ops.bn_act_backward_elemt),
    "interpolate": (_interpolate_inputs, _penalty_ops.interpolate),
    "penalty": (lambda draw: (draw.image(), 10.0, 1.0, False), _penalty_ops.penalty_and_gradient),
    "leaky_mask_mul": (lambda draw: (draw.image(), draw.image(), NEGATIVE_SLOPE), _penalty_ops.leaky_mask_mul),
}


@dataclass(frozen=True)
class PassCase(Case):
    pass_: str  # a key of PASSES
    shape: Shape
    layout: str = "channels_last"
    quick: bool = False

    modes: ClassVar[tuple[str, ...]] = ("step",)
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)
    rotates: ClassVar[bool] = True

    @property
    def op(self) -> str:
        return self.pass_

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.layout}"

    def cuda_goals(self, mode: str, precision: str) -> dict[str, float]:
        return {"copy": 0.85}

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        return ("eager", *(("compile",) if compiled else ()), "fastgan")

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        return Work(bytes_of(self.op, [self.shape], dtype))

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        make, call = PASSES[self.op]
        inputs = make(Draw(self.shape, LAYOUTS[self.layout], dtype, device))
        if upcast:
            inputs = tuple(t.to(working_dtype(dtype, upcast)) if isinstance(t, torch.Tensor) else t for t in inputs)
        implementation = "PyTorch"
        if base_of(provider) == "fastgan":
            implementation = implementation_of(self.op, *(t for t in inputs if isinstance(t, torch.Tensor)))
        elif base_of(provider) == "compile":
            call = _compiled(self.op, *compile_options(provider, device).values())
        else:
            call = _by_reference(call)

        def results() -> dict[str, torch.Tensor]:
            found = call(*inputs)
            found = found if isinstance(found, tuple) else (found,)
            return {f"output {i}": t.clone() for i, t in enumerate(found)}

        return Workload({"step": lambda: call(*inputs)}, results, implementation)


def _by_reference(call: Callable[..., object]) -> Callable[..., object]:
    def plain(*inputs: object) -> object:
        with ops.use("reference"):
            return call(*inputs)

    return plain


@lru_cache
def _compiled(op: str, *mode: str) -> Callable[..., object]:
    """One function for all sets: torch.compile gives a function that it compiles too often up."""
    return torch.compile(_by_reference(PASSES[op][1]), fullgraph=True, dynamic=False, mode=mode[0] if mode else None)


def cases(batch_size: int) -> list[PassCase]:
    """BatchNorm's passes at every hidden layer of DCGAN's discriminator, the penalty's at the image and one layer."""
    hidden = [(batch_size, layer.c_in, layer.size, layer.size) for layer in DISCRIMINATOR[1:]]
    image = (batch_size, CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    norm = ("bn_stats", "bn_act", "bn_act_backward_reduce", "bn_act_backward_elemt")
    return [
        *(PassCase(op, shape, quick=shape == hidden[0]) for op in norm for shape in hidden),
        *(PassCase(op, hidden[0], "NCHW") for op in norm),
        *(PassCase(op, image, "NCHW", quick=True) for op in ("interpolate", "penalty")),
        PassCase("leaky_mask_mul", hidden[0], quick=True),
    ]
