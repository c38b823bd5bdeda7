"""The report of a run: what is on the page, that it loads nothing, and what is said where something is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.training.checkpoint import CheckpointError, write_checkpoint
from fastgan.training.report import GRIDS, write_report
from fastgan.training.svg_chart import HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, line_chart

CONFIG = {
    "architecture": {"name": "dcgan", "class": "a.DCGAN", "config": {"image_size": 16, "loss": "<hinge & co>"}},
    "data": {"name": "faces", "items": 40, "description": "faces: 40 images"},
    "trainer": {"steps": 40, "metric": None, "fuse": True},
    "environment": {"torch": "2.13.0", "extension": True},
}
RECORDS = [
    {"step": 10 * i, "stage": "train", "epoch": 0.5 * i, "discriminator/adversarial": 1.0 / i,
     "generator/adversarial": i, "images_per_second": 100.0, "fid[net]": 5.0 - i, "precision[net]": 0.1 * i}
    for i in (1, 2, 3, 4)
]  # fmt: skip
EVALUATION = {
    "checkpoint": "best.safetensors", "step": 40, "ema": True, "features": "net", "samples": 20, "real_images": 40,
    "data": "faces: 40 images", "seed": 3, "values": {"kid[net]": 0.0125, "recall[net]": None},
    "collapse": {"collapsed": True},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    for step in range(0, 100, 10):
        Image.new("RGB", (4, 4), (step, 0, 0)).save(folder / "samples" / f"step_{step:06d}.png")
    write_checkpoint(
        folder / "checkpoints" / "best.safetensors", {"step": 40, "metric": {"name": "fid[net]", "value": 1.0}}
    )
    return folder


class Page(HTMLParser):
    """Texts, tables and addresses of a page; fails where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data)

    def warnings(self) -> list[str]:
        found = re.search(r'<div class="warnings".*?</div>', self.source)
        return re.findall(r"<li>(.*?)</li>", found[0]) if found else []


def report(run: Path, **options: Any) -> Page:
    return Page(write_report(run, **options))


def test_the_page_tells_of_the_run(run: Path) -> None:
    page = report(run)
    assert {"mine", "dcgan on faces: 40 images", "40 of 40", "best fid[net], at step 40"} <= set(page.texts)
    assert "checkpoints/best.safetensors holds step 40, where fid[net] was best: 1." in page.texts
    assert ["fid", "net", "lower is better", "1", "40", "1"] in page.rows
    assert ["precision", "net", "higher is better", "0.4", "40", "0.4"] in page.rows
    for option in (
        ["image_size", "16"],
        ["loss", "<hinge & co>"],
        ["metric", "–"],
        ["fuse", "yes"],
        ["torch", "2.13.0"],
    ):
        assert option in page.rows
    assert page.source.count("<svg") == page.source.count("</svg>") == 4  # fid, shares, two phases
    assert page.warnings() == []


def test_nothing_is_loaded_and_the_grids_are_few(run: Path) -> None:
    page = report(run)
    assert len(page.addresses) == GRIDS and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert [text for text in page.texts if text.startswith("step ") and text[5:].isdigit()] == [
        f"step {step}" for step in (0, 20, 40, 50, 70, 90)
    ]
    assert "http" not in page.source and "url(" not in page.source and "@import" not in page.source


def test_large_grids_are_smaller_on_the_page(run: Path) -> None:
    for file in (run / "samples").glob("*.png"):
        file.unlink()
    Image.effect_noise((400, 400), 90).save(run / "samples" / "step_000010.png")
    (address,) = report(run).addresses
    assert address.startswith("data:image/jpeg;base64,")


def test_every_text_is_escaped(run: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror='y'>"
    config = {**CONFIG, evil: {evil: evil}, "data": {"description": evil}, "architecture": {"name": evil}}
    (run / "config.json").write_text(json.dumps(config))
    record = {**RECORDS[0], f"phase/{evil}": 1.0, f"{evil}[{evil}]": 2.0, f"fid[{evil}]": 3.0, f"kid[{evil}]": None}
    (run / "metrics.jsonl").write_text(json.dumps(record))
    evaluation = {**EVALUATION, "data": evil, "features": evil, "seed": evil, "values": {evil: evil}}
    (run / "evaluation.jsonl").write_text(json.dumps(evaluation))
    write_checkpoint(run / "checkpoints" / "best.safetensors", {"step": 4, "metric": {"name": evil, "value": 1.0}})
    renamed = run.rename(run.with_name("<script>alert(1)<"))
    page = report(renamed)
    assert len(page.addresses) == GRIDS and "<script" not in page.source and "onerror='y'>" not in page.source
    assert page.texts.count(evil) >= 6


def test_evaluations_have_a_row_each(run: Path) -> None:
    lines = [json.dumps(EVALUATION), "{", json.dumps({**EVALUATION, "ema": False, "values": {"fid[net]": 2.5}})]
    (run / "evaluation.jsonl").write_text("\n".join(lines))
    page = report(run)
    at = next(i for i, row in enumerate(page.rows) if "samples / real" in row)
    assert page.rows[at][:6] == ["step", "weights", "features", "kid", "recall", "fid"]
    assert page.rows[at + 1][:8] == ["40", "averaged", "net", "0.0125", "–", "–", "20 / 40", "yes"]
    assert page.rows[at + 2][:6] == ["40", "last step's", "net", "–", "–", "2.5"]
    assert "1 line of evaluation.jsonl could not be read: left out." in page.warnings()
    assert "The evaluation of step 40 finds that the generator has collapsed." in page.warnings()


def test_what_cannot_be_read_is_left_out_and_said(run: Path) -> None:
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": "x"}\n[1]\n{"step": 50, "fid[n\xff')
    (run / "config.json").write_text('{"architecture')
    (run / "samples" / "step_000000.png").write_bytes(b"\x89PNG no more")
    (run / "checkpoints" / "best.safetensors").write_bytes(b"no tensors")
    warnings = report(run).warnings()
    assert warnings[0] == "config.json cannot be read: options and environment are left out."
    assert warnings[1].startswith("The best checkpoint cannot be read: ")
    assert "3 lines of metrics.jsonl could not be read: left out." in warnings
    assert "The picture step_000000.png cannot be read: left out." in warnings


def test_signs_of_trouble_are_warnings(run: Path) -> None:
    last = {"step": 50, "fid[net]": None, "generator/gradient_norm": 250.0, "discriminator/gradient_norm": 99.0}
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(last) + "\n" + json.dumps({**last, "step": 60, "generator/gradient_norm": 150.0}) + "\n")
    (run / "config.json").write_text(json.dumps({**CONFIG, "environment": {"extension": False}}))
    assert report(run).warnings() == [
        "fid[net] was not finite, first at step 50.",
        "generator/gradient_norm was above 100 in 2 of 2 records, at most 250 (step 50).",
        "The run trained without the compiled kernels: it was slower than it could be.",
    ]


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    page = report(tmp_path, out=tmp_path / "elsewhere" / "page.html")
    assert page.warnings() == ["There are no records yet: a run writes them every log_every steps."]
    assert ["image_size", "16"] in page.rows and "– of 40" in page.texts


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run in .*nowhere: it holds neither config.json nor metrics"):
        write_report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


# -- charts ------------------------------------------------------------------------------------------------------------
def points(svg: str, kind: str = "polyline") -> list[tuple[float, float]]:
    found = re.search(rf'<{kind} class="[^"]*line0" points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in found[1].split()]


def test_a_line_runs_from_corner_to_corner() -> None:
    svg = line_chart({"a": [(0, -1.0), (50, 0.0), (100, 1.0)]})
    (left, low), middle, (right, high) = points(svg)
    assert (left, right, high) == (LEFT, WIDTH - RIGHT, TOP) and low > high
    assert middle == pytest.approx(((left + right) / 2, (low + high) / 2))
    assert re.findall(r">([-\d.]+)</text>", svg) == ["-1", "-0.5", "0", "0.5", "1", "20", "40", "60", "80", "100"]
    assert "<title>a: 1 at step 100</title>" in svg and "logarithmic" not in svg


def test_a_wide_range_is_logarithmic() -> None:
    svg = line_chart({"a": [(0, 0.01), (1, 1.0), (2, 100.0)]})
    heights = [height for _, height in points(svg)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11) and "logarithmic" in svg


@pytest.mark.parametrize("curve", [[(3, 2.0)], [(1, 0.0), (2, 0.0)], [(1, 1e-300), (2, 1e300)], [(5, -7), (5, -7)]])
def test_extremes_stay_on_the_paper(curve: list[tuple[int, float]]) -> None:
    inside = [LEFT <= x <= WIDTH - RIGHT and 0 <= y <= HEIGHT for x, y in points(line_chart({"a": curve}))]
    assert inside and all(inside)


def test_a_long_line_keeps_its_peaks() -> None:
    curve = [(i, 0.0) for i in range(100_000)]
    curve[31_234] = (31_234, 9.0)
    drawn = points(line_chart({"a": curve}))
    assert len(drawn) <= MOST_POINTS + 2 and min(y for _, y in drawn) == TOP


def test_a_deviation_is_a_band_around_its_line() -> None:
    band = points(line_chart({"a": [(0, 1.0), (1, 2.0)]}, {"a": {0: 1.0, 1: 1.0}}), "polygon")
    assert len(band) == 4 and band[0][0] == band[3][0] and band[0][1] < band[3][1]
