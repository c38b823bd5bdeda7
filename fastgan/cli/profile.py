"""`fastgan profile NAME|RUN`: where a training step's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from fastgan import registry
from fastgan.architectures.base import Architecture
from fastgan.training.checkpoint import CheckpointError, load_state, read_run
from fastgan.training.options import open_data
from fastgan.training.profiling import profile_training


@dataclass
class ProfileOptions:
    """Train for a few steps and say where their time goes: how long kernels are busy and data is waited for, by phase
    and by kind of operator, which layers are fused and what computes their convolutions. Writes nothing to a run."""

    target: Annotated[str, tyro.conf.Positional]
    """name of an architecture, or run folder or checkpoint file"""
    steps: int = 10
    """steps to profile; as many are timed without the profiler"""
    trace: Path | None = None
    """also write a trace for chrome://tracing or Perfetto"""
    data: str | None = None
    """as `fastgan train` takes it; none: the run's, or scenes"""
    image_size: int | None = None
    """of an architecture by name; none: its own"""
    batch_size: int | None = None
    """none: the run's, or the architecture's"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""
    precision: str | None = None
    """auto, float32, bfloat16 or float16; none: the run's, or auto"""
    workers: int = 0
    """processes that read data ahead"""
    fuse: bool = True
    """use fused layers (fastgan.fuse)"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(ProfileOptions, args=argv, prog="fastgan profile")
    if options.target.replace("-", "_") in registry.list_architectures() or not _is_path(options.target):
        architecture, recorded = _by_name(options), {}
    else:
        state, file = read_run(options.target, "last")
        architecture, recorded = load_state(state, file, ema=False), state["config"]
    trainer = recorded.get("trainer", {})
    profile = profile_training(
        architecture,
        _data(options, architecture, recorded.get("data")),
        options.steps,
        options.trace,
        batch_size=options.batch_size or trainer.get("batch_size"),
        device=options.device,
        precision=options.precision or trainer.get("precision", "auto"),
        augment=trainer.get("augment"),
        num_workers=options.workers,
        fuse=options.fuse,
    )
    print(profile)
    if options.trace is not None:
        print(f"\ntrace  {options.trace}")


def _is_path(target: str) -> bool:
    return Path(target).exists() or len(Path(target).parts) > 1


def _by_name(options: ProfileOptions) -> Architecture:
    torch.manual_seed(0)
    cls = registry.get(options.target)
    return cls(registry.configure(cls, {} if options.image_size is None else {"image_size": options.image_size}))


def _data(options: ProfileOptions, architecture: Architecture, recorded: dict[str, Any] | None) -> Any:
    recorded = recorded or {"spec": "scenes"}
    spec = options.data or recorded.get("spec")
    if spec is None:
        raise CheckpointError(f"{options.target} was trained on data that it has no path of: give --data")
    config = architecture.config
    return open_data(spec, image_size=config.image_size, channels=config.channels)
