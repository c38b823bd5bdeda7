"""The one record that passes between data, trainer and architectures."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """A mini-batch; every field is optional, an architecture names those it uses in ``Architecture.needs``.

    Images are float32 in [-1, 1], NCHW. All tensors share their first dimension (the batch) and their device.
    """

    image: torch.Tensor | None = None  # (N, C, H, W) or video (N, T, C, H, W) float32 in [-1, 1]: what D calls real
    label: torch.Tensor | None = None  # (N,) int64 class index (-1: unlabelled), or (N, K) float attributes
    source: torch.Tensor | None = None  # (N, C', H', W') float32 in [-1, 1]: the input of an image-to-image model
    text: torch.Tensor | None = None  # (N, T) int64 tokens, or (N, D) float32 embedding
    state: torch.Tensor | None = None  # (N, ..., S) float32: robot or camera state
    action: torch.Tensor | None = None  # (N, ..., A) float32: what was done at each frame
    latent: torch.Tensor | None = None  # (N, z_dim) float32: noise; drawn by the architecture where absent
    index: torch.Tensor | None = None  # (N,) int64: position in the data set

    def __post_init__(self) -> None:
        sizes = {f.name: len(v) for f in fields(self) if (v := getattr(self, f.name)) is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Batch fields disagree about the batch size: {sizes}")

    def __len__(self) -> int:
        for f in fields(self):
            if (value := getattr(self, f.name)) is not None:
                return len(value)
        return 0

    def replace(self, **changes: torch.Tensor | None) -> Batch:
        """A copy with some fields exchanged."""
        return replace(self, **changes)

    def to(self, *args, **kwargs) -> Batch:
        """Move every field as ``torch.Tensor.to`` does; a dtype argument is for the floating fields only."""

        def move(value: torch.Tensor) -> torch.Tensor:
            moved = value.to(*args, **kwargs)
            return moved if value.is_floating_point() else moved.to(value.dtype)

        present = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return Batch(**{name: move(value) for name, value in present.items()})

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Those of ``names`` that this batch does not carry."""
        return [name for name in names if getattr(self, name) is None]
