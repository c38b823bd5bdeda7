"""Augmentation of what the discriminator sees, for any architecture: one place, in front of its discriminators.

A hook on each of ``Architecture.discriminators`` puts the augmentation before the module's forward: every call in train
mode sees it, of real and of generated pictures, in the discriminator's update and in the generator's, whose gradient
passes through it; a gradient penalty is then that of D(T(x)) with respect to x. Parts of a discriminator that a loss
calls by themselves (features for matching) see what they are given.

What hooks do elsewhere holds here: ``gradient_penalty`` takes double backward, since the analytic path covers plain
layers alone, and ``cuda_graph=True`` runs these phases eagerly and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from fastgan.architectures.base import Architecture
from fastgan.data.batch import Batch
from fastgan.nn.ada import AdaptiveAugment
from fastgan.nn.diffaugment import DiffAugment

__all__ = ["DiscriminatorAugment"]

NAMES = {"diffaugment": DiffAugment, "ada": AdaptiveAugment}


class DiscriminatorAugment:
    """Puts ``augment`` before the discriminators of ``architecture``, and tells an adaptive one what they say of reals.

    ``batch``: the batch that training is at; a discriminator called on its ``image`` sees real pictures.
    ``rows``: takes what is said of this process's samples to what is said of the joint batch's.
    """

    def __init__(self, architecture: Architecture, augment: str | nn.Module, device: torch.device) -> None:
        if isinstance(augment, str) and augment not in NAMES:
            raise ValueError(
                f"augment is {augment!r}; it takes {' or '.join(map(repr, NAMES))}, or a module on pictures"
            )
        if not isinstance(augment, (str, nn.Module)):
            raise TypeError(f"augment is a {type(augment).__name__}; it takes a name, or a module on pictures")
        self.module = (NAMES[augment]() if isinstance(augment, str) else augment).to(device)
        self.adaptive = hasattr(self.module, "observe")
        self.discriminators = _discriminators(architecture)
        if self.adaptive and "critic" in self.discriminators:
            raise ValueError(
                f"augment: {type(architecture).__name__} has a critic, whose output's sign says nothing of "
                "overfitting, and ada follows that sign: use 'diffaugment'"
            )
        self.batch: Batch | None = None
        self.rows: Callable[[torch.Tensor], torch.Tensor] = lambda said: said
        self._start = {name: value.clone() for name, value in self.module.state_dict().items()}
        self._real = False  # whether the discriminator is looking at reals
        self._observed = False  # whether it did so since training began

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the discriminators see augmented pictures; afterwards the architecture is as it was."""
        hooks = []
        for name, module in self.discriminators.items():
            hooks.append(module.register_forward_pre_hook(partial(self._before, name)))
            if self.adaptive:
                hooks.append(module.register_forward_hook(self._after))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.batch = None

    def _before(self, name: str, module: nn.Module, arguments: tuple) -> tuple | None:
        if not module.training:
            return None
        pictures, *rest = arguments
        if pictures.dim() != 4 or any(isinstance(a, torch.Tensor) and a.dim() >= 4 for a in rest):
            raise ValueError(
                f"augment takes one tensor of pictures (N, C, H, W) at a time; {name} is called on "
                + " and ".join(str(tuple(a.shape)) for a in arguments if isinstance(a, torch.Tensor))
            )
        self._real = self.adaptive and self.batch is not None and _same(pictures, self.batch.image)
        return self.module(pictures), *rest

    def _after(self, module: nn.Module, arguments: tuple, output: Any) -> None:
        if module.training and self._real:
            self.module.observe(self.rows(output if isinstance(output, torch.Tensor) else output[0]))
            self._observed = True

    def check(self) -> None:
        """After the first step: an adaptive augmentation must have seen what it adapts to."""
        if self.adaptive and not self._observed:
            raise ValueError(
                "augment: in this step no discriminator was called on batch.image alone, which ada adapts by: use "
                "'diffaugment', or call the discriminator on real and on generated pictures one after the other"
            )

    def record(self) -> dict[str, float]:
        """For metrics.jsonl; waits for the device."""
        return {"augment_p": float(self.module.p)} if self.adaptive else {}

    def reset(self) -> None:
        self.module.load_state_dict(self._start)
        self._observed = False

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.module.load_state_dict(state)


def _discriminators(architecture: Architecture) -> dict[str, nn.Module]:
    found = {name: getattr(architecture, name, None) for name in architecture.discriminators}
    for name, module in found.items():
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"augment: {type(architecture).__name__}.discriminators names {name!r}, which is no submodule of it"
            )
    if not found:
        raise ValueError(f"augment: {type(architecture).__name__} has no discriminator on pictures")
    return found


def _same(pictures: torch.Tensor, real: torch.Tensor | None) -> bool:
    """Whether it is that tensor, detached or not."""
    return real is not None and pictures.data_ptr() == real.data_ptr() and pictures.shape == real.shape
