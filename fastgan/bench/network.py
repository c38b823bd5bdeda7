"""Rows of whole networks: DCGAN's generator and discriminator, plain and fused, without a loss and an optimiser.

both   forward in training mode and the gradients of every parameter
eval   running statistics, no gradients: from noise to images, from images to logits
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fastgan
from fastgan.bench import networks
from fastgan.bench.case import (
    COMPILED,
    EAGER,
    GRADIENT,
    OURS,
    SEED,
    Case,
    Workload,
    autocast,
    base_of,
    begin_step,
    compile_options,
    implementation_of,
    is_ours,
    layout_of,
    working_dtype,
)
from fastgan.bench.floor import Network, Work
from fastgan.bench.shapes import BATCH_SIZE, CHANNELS, IMAGE_SIZE, Z_DIM

__all__ = ["NETWORKS", "NetworkCase", "cases"]

NETWORKS = ("generator", "discriminator")
EVAL_GENERATOR_GOAL = 1.8  # on a GPU in bfloat16


@dataclass(frozen=True)
class NetworkCase(Case):
    network: str  # of NETWORKS
    batch_size: int = BATCH_SIZE
    image_size: int = IMAGE_SIZE
    width: int = 64  # ngf = ndf
    quick: bool = True

    op: ClassVar[str] = "network"
    modes: ClassVar[tuple[str, ...]] = ("both", "eval")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16)
    depth: ClassVar[int] = 5
    patience: ClassVar[float] = 2.0

    @property
    def name(self) -> str:
        return f"{self.network} {self.image_size} px, batch {self.batch_size}"

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        return (*EAGER, *(COMPILED if compiled else ()), *OURS)

    def cuda_goals(self, mode: str, precision: str) -> dict[str, float]:
        wanted = (self.network, mode, precision) == ("generator", "eval", "bfloat16")
        return {"strongest": EVAL_GENERATOR_GOAL} if wanted else {}

    def work(self, mode: str, dtype: torch.dtype) -> Work:
        counted = Network.of(self._network(torch.device("cpu"), False), *self._shapes()[0])
        return counted.forward(dtype) if mode == "eval" else counted.forward_and_backward(dtype)

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        wide, layout = working_dtype(torch.float32, upcast), layout_of(provider)
        net = self._network(device, upcast).to(memory_format=layout)
        x, grad_y = (_in_layout(t.to(device, wide), layout) for t in self._tensors())
        names, parameters = zip(*net.named_parameters(), strict=True)
        train, evaluate, implementation = net, copy.deepcopy(net).eval(), "PyTorch"
        if is_ours(provider):
            train, evaluate = fastgan.fuse(train), fastgan.fuse(evaluate)
            implementation = implementation_of("conv2d_bn_act", x, *parameters)
        elif base_of(provider) in COMPILED:
            options = compile_options(provider, device)
            train, evaluate = torch.compile(train, **options), torch.compile(evaluate, **options)

        def forward() -> torch.Tensor:
            begin_step(provider, device)
            with autocast(dtype, device, upcast):
                return train(x)

        def both() -> tuple[torch.Tensor, ...]:
            y = forward()
            return y, *torch.autograd.grad(y, parameters, grad_y.to(y.dtype))

        @torch.no_grad()
        def in_eval_mode() -> torch.Tensor:
            begin_step(provider, device)
            with autocast(dtype, device, upcast):
                return evaluate(x)

        def results() -> dict[str, torch.Tensor]:
            # copies: the next call of a module compiled for a GPU writes over what the last one returned
            found = {"y in eval mode": in_eval_mode().clone()}
            y, *grads = both()
            found |= {"y": y.detach().clone()}
            found |= {GRADIENT + name: g.clone() for name, g in zip(names, grads, strict=True)}
            return found | {name: buffer.clone() for name, buffer in net.named_buffers()}

        def state() -> list[torch.Tensor]:
            return list(net.state_dict().values())

        return Workload({"both": both, "eval": in_eval_mode}, results, implementation, state)

    def _network(self, device: torch.device, upcast: bool) -> nn.Module:
        options = {"image_size": self.image_size, "channels": CHANNELS, "z_dim": Z_DIM}
        gan = networks.build("dcgan", device, upcast, ngf=self.width, ndf=self.width, **options)
        return getattr(gan, self.network)

    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the input and of the output."""
        noise, images = (self.batch_size, Z_DIM), (self.batch_size, CHANNELS, self.image_size, self.image_size)
        return (noise, images) if self.network == "generator" else (images, (self.batch_size,))

    def _tensors(self) -> Iterator[torch.Tensor]:
        """x and grad_y, float32 on the CPU."""
        generator = torch.Generator().manual_seed(SEED)
        return (torch.randn(shape, generator=generator) for shape in self._shapes())


def _in_layout(t: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """Images alone have one."""
    return t.contiguous(memory_format=layout) if t.dim() == 4 else t


def cases(batch_size: int = BATCH_SIZE) -> list[NetworkCase]:
    return [NetworkCase(network, batch_size) for network in NETWORKS]
