"""What this installation can do: `fastgan.info()` and `fastgan info`."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter

import torch

__all__ = ["info"]


def info() -> dict[str, object]:
    """Versions, hardware, what was built, which kernels exist here and why the others do not.

    Opens no device; safe to call anywhere. Values are strings, numbers, lists and dicts: it serialises to JSON.
    """
    from fastgan import __version__
    from fastgan.ops import _dispatch, _library

    build = dict(_library.C.build_info()) if _library.LOADED else {}
    return {
        "fastgan": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "cpu": _processor(),
        "threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "extension": "loaded" if _library.LOADED else _library.REASON,
        "build": build,
        "cpu_capability": _library.C.cpu_capability() if _library.LOADED else None,
        "implementation": _dispatch.current(),
        "cpu_kernels": _dispatch.kernels(),
        "cuda": _cuda(),
        "cuda_convolutions": _cuda_convolutions(),
        "environment": {k: v for k, v in os.environ.items() if k.startswith("FASTGAN_") or k == "ATEN_CPU_CAPABILITY"},
    }


def _cuda_convolutions() -> dict[str, str]:
    """What the timed trials of earlier runs chose, by kind of device; `fastgan info --convolutions` lists every one."""
    from fastgan.ops import _conv_choices

    summary = {}
    for name, choices in _conv_choices.cached().items():
        counts = Counter(kernel for kernel, _ in choices.values())
        summary[name] = ", ".join(f"{count} by {kernel}" for kernel, count in counts.most_common())
    return summary


def convolutions() -> str:
    """Every choice in the cache: the call, what was chosen, and the microseconds of every candidate."""
    from fastgan.ops import _conv_choices

    lines = []
    for name, choices in _conv_choices.cached().items():
        lines.append(name)
        for key, (kernel, times) in sorted(choices.items()):
            timed = ", ".join(f"{k} {t:.1f}" for k, t in sorted(times.items(), key=lambda item: item[1]))
            lines.append(f"  {key}: {kernel}" + (f" ({timed} us)" if timed else ""))
    return "\n".join(lines) or "no convolution on a CUDA device has been timed yet"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _cuda() -> str:
    """One sentence on CUDA kernels: built or not, usable or not, verified on hardware or not."""
    from fastgan.ops import _dispatch

    if not _dispatch.has_cuda_kernels():
        return "no CUDA kernels in this build"
    if not torch.cuda.is_available():
        return f"CUDA kernels built, {_verified()}; no CUDA device here"
    if gap := _dispatch.device_gap(torch.device("cuda", torch.cuda.current_device())):
        return f"CUDA kernels built, but not for this machine: {gap}"
    capability = torch.cuda.get_device_capability()
    name = f"{torch.cuda.get_device_name()} (sm_{capability[0]}{capability[1]})"
    if capability in _dispatch.VERIFIED_CUDA:
        return f"CUDA kernels built and verified on {name}"
    return f"CUDA kernels built; not verified on hardware like {name}: 'auto' takes the reference, 'kernel' takes them"


def _verified() -> str:
    from fastgan.ops import _dispatch

    found = sorted(f"sm_{major}{minor}" for major, minor in _dispatch.VERIFIED_CUDA)
    return f"verified on {', '.join(found)}" if found else "not verified on hardware"


def describe(facts: dict[str, object]) -> str:
    """The facts as aligned lines."""
    width = max(map(len, facts))
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k}={v}" for k, v in value.items()) or "-"
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        lines.append(f"{key:<{width}}  {value}")
    return "\n".join(lines)
