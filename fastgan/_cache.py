"""The folder of what can be made again, and may be deleted at any time: decoded images, chosen convolutions.

Environment: FASTGAN_CACHE, a folder (default: $XDG_CACHE_HOME/fastgan or ~/.cache/fastgan); empty: nothing is kept.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path | None:
    """The folder, which need not exist; None where nothing is to be kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgan"
    given = os.environ.get("FASTGAN_CACHE", str(default))
    return Path(given).expanduser() if given else None
