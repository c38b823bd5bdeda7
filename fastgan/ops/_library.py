"""The operator library ``fastgan`` and its compiled half, ``fastgan._C``, loaded once.

Schemas are defined in Python, on ``LIBRARY``; the extension only registers implementations, so either may come first.
Loading never raises: without the extension every op runs by its reference, and ``REASON`` says why.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["C", "LIBRARY", "LOADED", "REASON"]

LIBRARY = torch.library.Library("fastgan", "FRAGMENT")

_REBUILD = "reinstall with: pip install --no-build-isolation --force-reinstall --no-deps fastgan"


def _load(package: Path) -> tuple[ModuleType | None, str]:
    """The extension and "", or None and one sentence that says why there is none and what to do."""
    built = sorted(p.name for p in package.glob("_C*") if p.suffix in (".so", ".pyd"))
    if not built:
        note = package / "_not_built.txt"  # setup.py's reason
        why = f" because {note.read_text().strip()}" if note.exists() else ""
        return None, f"not built: fastgan was installed without its compiled extension{why}; {_REBUILD}"
    if not any("_C" + suffix in built for suffix in EXTENSION_SUFFIXES):
        running = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        return None, f"built for another Python: found {', '.join(built)}, running {running}; {_REBUILD}"
    try:
        return importlib.import_module("fastgan._C"), ""
    except Exception as error:  # a missing symbol or library: whatever it is, the references still work
        return None, f"built for another torch: it does not load under torch {torch.__version__} ({error}); {_REBUILD}"


C, REASON = _load(Path(__file__).resolve().parent.parent)
LOADED = C is not None
