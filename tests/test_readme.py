"""Every Python block of README.md and CONTRIBUTING.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = [
    pytest.param(block, id=f"{name}-{i}")
    for name in ("README.md", "CONTRIBUTING.md")
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "readme"}
    exec(compile(block, "block", "exec"), names)
    if "images" in names:
        assert names["images"].abs().max() <= 1


def test_readme_shows_three_uses():
    assert sum(param.id.startswith("README.md") for param in BLOCKS) >= 3
