"""fastgan: GANs trained fast. Fused kernels, a registry of architectures, and every piece usable on its own.

Importing has no side effects: no device is opened, nothing is downloaded, nothing printed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public names and where they live. Resolved on first use, so that `import fastgan` costs little beside `import torch`.
_MODULES = ("losses", "nn", "ops", "optim")
_NAMES = {
    "Architecture": "fastgan.architectures.base",
    "Batch": "fastgan.data.batch",
    "Phase": "fastgan.architectures.base",
    "Stage": "fastgan.architectures.base",
    "Trainer": "fastgan.training.trainer",
    "create": "fastgan.registry",
    "fuse": "fastgan.nn.fuse",
    "info": "fastgan._info",
    "list_architectures": "fastgan.registry",
    "load_run": "fastgan.training.checkpoint",
    "option": "fastgan.architectures.base",
    "register": "fastgan.registry",
    "unfuse": "fastgan.nn.fuse",
}

__all__ = sorted([*_MODULES, *_NAMES, "__version__"])

if TYPE_CHECKING:
    from fastgan import losses, nn, ops, optim
    from fastgan._info import info
    from fastgan.architectures.base import Architecture, Phase, Stage, option
    from fastgan.data.batch import Batch
    from fastgan.nn.fuse import fuse, unfuse
    from fastgan.registry import create, list_architectures, register
    from fastgan.training.checkpoint import load_run
    from fastgan.training.trainer import Trainer


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"fastgan.{name}")
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
