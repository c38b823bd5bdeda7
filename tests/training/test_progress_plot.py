"""The progress plot: what is drawn from which records, and one sentence where nothing can be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fastgan.training.checkpoint import CheckpointError
from fastgan.training.progress_plot import panels_of, read_curves, save_progress_plot

RECORDS = [
    {"step": 2, "stage": "train", "epoch": 0.5, "generator/adversarial": 1.5, "images_per_second": 900.0},
    {"step": 4, "stage": "train", "epoch": 1.0, "generator/adversarial": 2.5, "discriminator/p_real": 0.5,
     "discriminator/adversarial": 1.0, "kid[net]": 0.5, "kid_std[net]": 0.1, "recall[net]": 0.2,
     "precision[net]": None},
    {"step": 6, "kid[net]": 0.25, "kid_std[net]": 0.1, "recall[net]": 0.3, "precision[net]": 0.4, "ms_ssim": 0.1},
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS) + '{"step": 8, "kid[n')
    return path


def test_curves_are_what_was_recorded(file: Path) -> None:
    curves = read_curves(file)
    assert curves["generator/adversarial"] == [(2, 1.5), (4, 2.5)]
    assert curves["kid[net]"] == [(4, 0.5), (6, 0.25)] and curves["precision[net]"] == [(6, 0.4)]
    assert "images_per_second" not in curves and "epoch" not in curves


def testpanels_of(file: Path) -> None:
    assert panels_of(read_curves(file)) == {
        "kid[net]": ["kid[net]"],
        "shares[net]": ["recall[net]", "precision[net]"],
        "ms_ssim": ["ms_ssim"],
        "generator": ["generator/adversarial"],
        "discriminator": ["discriminator/p_real", "discriminator/adversarial"],
    }


def test_the_picture_has_a_line_a_curve(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture: pip install 'fastgan[plots]'")
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
    picture = save_progress_plot(read_curves(file), tmp_path / "out" / "progress.png", title="mine")
    assert picture.read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].axes
    assert [len(axis.lines) for axis in axes] == [1, 2, 1, 1, 2]
    assert [len(axis.collections) for axis in axes] == [1, 0, 0, 0, 0]  # only kid has a deviation
    assert axes[0].lines[0].get_xydata().tolist() == [[4, 0.5], [6, 0.25]]


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no .*metrics\.jsonl: a run writes it"):
        read_curves(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="holds no records yet"):
        read_curves(tmp_path / "metrics.jsonl")


def test_without_matplotlib_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="the progress plot needs matplotlib: pip install matplotlib"):
        save_progress_plot({"a": [(1, 1.0)]}, tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []
