"""TensorBoard, and the ten lines by which docs/logging.md brings any other logger."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastgan.training.callbacks import Callback
from fastgan.training.tensorboard import TensorBoard
from fastgan.training.trainer import Trainer

from .stubs import Images, TinyGAN

PAGE = Path(__file__).resolve().parents[2] / "docs" / "logging.md"


class Writer:
    """Stands in for SummaryWriter, and keeps what it is given."""

    made: list[Writer] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.open = folder, purge_step, True
        self.scalars: dict[str, dict[int, float]] = {}
        self.images: dict[int, np.ndarray] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, {})[step] = value

    def add_image(self, name: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
        assert (name, dataformats) == ("samples", "HWC")
        self.images[step] = pixels

    def flush(self) -> None:
        assert self.open

    def close(self) -> None:
        self.open = False


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def train(out: Path | None, callback: Callback, **options: Any) -> Trainer:
    options = {"steps": 4, "log_every": 2, "sample_every": 4, "progress": False, **options}
    trainer = Trainer(TinyGAN(), Images(20), out=out, callbacks=[callback], **options)
    trainer.fit()
    return trainer


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_scalars_are_the_records_and_images_the_grids(tmp_path: Path, writers: list[Writer]) -> None:
    metric = iter([("quality", 2.0, True), ("quality", float("nan"), True)])
    train(tmp_path, TensorBoard(), metric=lambda gan: next(metric), metric_every=2)
    (writer,) = writers
    assert writer.folder == str(tmp_path / "tensorboard") and not writer.open
    lines = records(tmp_path)
    assert writer.scalars["critic/wasserstein"] == {line["step"]: line["critic/wasserstein"] for line in lines}
    assert writer.scalars["quality"] == {2: 2.0}  # a NaN is null in the record, and no scalar
    assert {"step", "stage"}.isdisjoint(writer.scalars) and "epoch" in writer.scalars
    assert list(writer.images) == [4] and writer.images[4].shape[2] == 1
    with Image.open(tmp_path / "samples" / "step_000004.png") as picture:
        assert np.array_equal(writer.images[4][:, :, 0], np.asarray(picture))


def test_a_resumed_run_hides_what_lay_behind_its_checkpoint(tmp_path: Path, writers: list[Writer]) -> None:
    train(tmp_path, TensorBoard())
    train(tmp_path, TensorBoard(), steps=6)
    assert [writer.purge_step for writer in writers] == [1, 5]
    assert list(writers[1].scalars["critic/wasserstein"]) == [6]


def test_a_run_in_memory_has_scalars_where_a_folder_is_named(tmp_path: Path, writers: list[Writer]) -> None:
    train(None, TensorBoard())
    assert writers == []
    train(None, TensorBoard(tmp_path))
    assert list(writers[0].scalars["critic/wasserstein"]) == [2, 4] and writers[0].images == {}


def test_event_files_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard writes event files: pip install 'fastgan[log]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, TensorBoard())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    read = {event.step: event.value for event in events.Scalars("generator/wasserstein")}
    assert read == pytest.approx({line["step"]: line["generator/wasserstein"] for line in records(tmp_path)})
    assert [image.step for image in events.Images("samples")] == [4]


def test_without_tensorboard_one_sentence_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"event files need tensorboard: pip install 'fastgan\[log\]'"):
        TensorBoard()


def test_the_documented_logger_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[int, dict[str, Any]] = {}
    opened: list[Any] = []

    def init(**options: Any) -> SimpleNamespace:
        opened.append(options)
        return SimpleNamespace(log=lambda numbers, step: logged.update({step: numbers}), finish=lambda: opened.pop())

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda path: ("image", path)))
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(block, names)
    train(tmp_path, names["WandB"]())
    assert opened == []  # opened and finished
    assert [logged[line["step"]]["critic/wasserstein"] for line in records(tmp_path)] == [
        line["critic/wasserstein"] for line in records(tmp_path)
    ]
    assert logged[4]["samples"] == ("image", str(tmp_path / "samples" / "step_000004.png")) and "stage" not in logged[4]
