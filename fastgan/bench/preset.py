"""Rows of every architecture: one training step of each of its presets, as the Trainer makes it.

PyTorch's side is the plain networks by the reference implementations, fastgan's the fused ones by kernels; optimisers,
losses and phases are the architecture's own, so that a row says what the kernels do for it and nothing else. The bar is
"never slower". Images are noise of the data's size: reading them is no part of a step.

The step timed is one in which every phase runs once or as often as it does late in a run: behind WGAN's warm-up, and
with all levels of LAPGAN.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan import ops, registry
from fastgan.architectures.base import Architecture, Phase, Preset
from fastgan.bench import networks
from fastgan.bench.case import (
    EAGER,
    GRADIENT,
    OURS,
    SEED,
    Case,
    Workload,
    autocast,
    begin_step,
    implementation_of,
    is_ours,
    layout_of,
    working_dtype,
)
from fastgan.data import load
from fastgan.data.batch import Batch
from fastgan.training.preset import from_data, get_preset
from fastgan.training.update import only, set_options, total

__all__ = ["PresetCase", "cases", "example"]

STEP = 4096
# A direction found by a small difference multiplies rounding, so that two right answers lie apart; a large one takes
# as long.
WELL_CONDITIONED = {"vat": {"xi": 1.0}}
# what is known of real data without their files
REAL = {
    name: SimpleNamespace(channels=channels, classes=range(10))
    for name, channels in (("fashion_mnist", 1), ("mnist_5k", 1), ("cifar10", 3))
}


@dataclass(frozen=True)
class PresetCase(Case):
    architecture: str
    preset: str
    batch_size: int | None = None  # None: the preset's, or the paper's

    op: ClassVar[str] = "preset"
    modes: ClassVar[tuple[str, ...]] = ("step",)
    depth: ClassVar[int] = 20  # a generator, a discriminator, and a loss that may be a difference of two means

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.preset}"

    def providers(self, mode: str, compiled: bool) -> tuple[str, ...]:
        return (*EAGER, *OURS)

    def setup(self, provider: str, dtype: torch.dtype, device: torch.device, upcast: bool = False) -> Workload:
        cls = registry.get(self.architecture)
        preset = get_preset(cls, self.preset)
        options, batch = example(cls, preset, self.batch_size)
        options |= WELL_CONDITIONED.get(self.architecture, {})
        gan = networks.build(self.architecture, device, upcast, fuse=is_ours(provider), **options)
        gan.to(memory_format=layout_of(provider))
        batch = batch.to(device=device, dtype=working_dtype(torch.float32, upcast))
        phases = gan.stages()[-1].phases
        made = [(phase, phase.optimizer(phase.parameters)) for phase in phases]
        names = {id(parameter): name for name, parameter in gan.named_parameters()}

        def terms(phase: Phase) -> dict[str, torch.Tensor]:
            with autocast(dtype, device, upcast):
                return phase.loss(batch, STEP)

        def step() -> None:
            begin_step(provider, device)
            for phase, optimizer in made:
                with _implementation(provider), only(gan, phase.parameters):
                    for _ in range(phase.repeats(STEP)):
                        optimizer.zero_grad(set_to_none=True)
                        total(terms(phase), phase.name).backward()
                        set_options(phase, optimizer, STEP)
                        optimizer.step()
                        if phase.after is not None:
                            with torch.no_grad():
                                phase.after(STEP)

        def results() -> dict[str, torch.Tensor]:
            """Losses and gradients of every phase at the first weights: no update, as Adam's would amplify rounding."""
            found = {}
            for phase, optimizer in made:
                torch.manual_seed(SEED)
                with _implementation(provider), only(gan, phase.parameters), _SameDraws():
                    losses = terms(phase)
                    total(losses, phase.name).backward()
                found |= {f"{phase.name}/{name}": loss.detach() for name, loss in losses.items() if loss.requires_grad}
                found |= {f"{GRADIENT}{phase.name}: {names[id(p)]}": p.grad for p in phase.parameters}
                optimizer.zero_grad(set_to_none=True)
            return found

        ours = is_ours(provider)
        implementation = implementation_of("conv2d_bn_act", batch.image, *gan.parameters()) if ours else "PyTorch"
        return Workload({"step": step}, results, implementation)


def _implementation(provider: str) -> AbstractContextManager:
    """PyTorch's side runs by the reference implementations, fastgan's by what is chosen outside."""
    return nullcontext() if is_ours(provider) else ops.use("reference")


def example(cls: type[Architecture], preset: Preset, batch_size: int | None = None) -> tuple[dict[str, Any], Batch]:
    """The options of an architecture trained by ``preset``, and a batch of noise such as its data would give.

    Real data need not be installed. Where the data keep few labels, half of the batch has none (-1), as about half of
    one has in training.
    """
    name, _, query = preset.data.partition("?")
    size = registry.configure(cls, dict(preset.model)).image_size
    data = REAL[name] if name in REAL else load(preset.data, image_size=size)
    size = getattr(data, "image_size", size)
    options = {**from_data(cls, data), **preset.model, "image_size": size}
    n = batch_size or preset.batch_size or cls.defaults["batch_size"]
    generator = torch.Generator().manual_seed(SEED)
    image = torch.empty(n, data.channels, size, size).uniform_(-1, 1, generator=generator)
    label = torch.randint(len(data.classes), (n,), generator=generator)
    if "labels=" in query:
        label[::2] = -1
    return options, Batch(image=image, label=label)


class _SameDraws(TorchDispatchMode):
    """Random numbers are those of a contiguous float32 tensor: the same from one seed in any layout and in float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **kwargs)
        plain = [torch.empty(a.shape, device=a.device).copy_(a) if isinstance(a, torch.Tensor) else a for a in args]
        drawn = function(*plain, **{**kwargs, **({"dtype": torch.float32} if "dtype" in kwargs else {})})
        if drawn is plain[0]:
            return args[0].copy_(drawn)
        return drawn.to(kwargs.get("dtype") or drawn.dtype)


def cases() -> list[PresetCase]:
    """Every preset of every architecture."""
    return [PresetCase(name, preset) for name in registry.list_architectures() for preset in registry.get(name).presets]
