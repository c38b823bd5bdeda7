"""Every Python block of README.md, CONTRIBUTING.md and docs/ runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = [
    pytest.param(block, id=f"{name}-{i}")
    for name in ("README.md", "CONTRIBUTING.md", "docs/stability.md", "docs/large-runs.md", "docs/analysis.md")
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path):
    path = {"PYTHONPATH": str(Path(fastgan.__file__).parents[1])}  # the fastgan under test, installed or not
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "report=True" in block:
        assert "fused: 3 of 3 convolutions" in done.stdout


def test_readme_shows_three_uses():
    assert sum(param.id.startswith("README.md") for param in BLOCKS) >= 3
