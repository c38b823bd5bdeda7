"""Metrics by name during training: which way is better, conditional models, and the watch for a collapse."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan.data import load
from fastgan.data.batch import Batch
from fastgan.metrics import CollapseDetector, Measure
from fastgan.training.callbacks import BestMetric
from fastgan.training.checkpoint import read_checkpoint
from fastgan.training.measuring import CollapseWatch, RunMetric, sampler

from .stubs import TinyGAN, build


class Playback:
    """Stands for a Measure: values by name, one a call."""

    def __init__(self, metrics: tuple[str, ...], *values: dict[str, float]) -> None:
        self.metrics, self.n, self.dataset, self._coming = metrics, 9, None, iter(values)

    def label(self, metric: str) -> str:
        return f"{metric}[net]"

    def __call__(self, generate: object) -> dict[str, float]:
        return {self.label(name): value for name, value in next(self._coming).items()}


@pytest.mark.parametrize(("metrics", "best"), [(("fid", "recall"), 2), (("recall", "fid"), 3)])
def test_the_first_metric_keeps_the_best_by_its_own_direction(tmp_path: Path, metrics, best) -> None:
    values = [{"fid": 5.0, "recall": 0.1}, {"fid": 1.0, "recall": 0.4}, {"fid": 3.0, "recall": 0.6}]
    values.append({"fid": 9.0, "recall": float("nan")})
    metric = RunMetric(Playback(metrics, *values))
    trainer = build("tiny", str(tmp_path), steps=4, metric_every=1, metric=metric, sample_every=None)
    trainer.fit()
    state = read_checkpoint(tmp_path / "checkpoints" / "best.safetensors")
    assert state["step"] == best and state["metric"]["name"] == f"{metrics[0]}[net]"
    assert next(c for c in trainer.callbacks if isinstance(c, BestMetric)).best_step == best
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["fid[net]"] for record in records] == [5, 1, 3, 9]
    assert [record["recall[net]"] for record in records] == [0.1, 0.4, 0.6, None]
    assert trainer.config["trainer"]["metric"] == f"{metrics[0]}[net] n=9 beside {metrics[1]}"


def test_a_measure_of_an_architecture() -> None:
    data = load("scenes", image_size=8, channels=1, size=60)
    gan = fastgan.create("gan", image_size=8, channels=1, z_dim=4, hidden=8, maxout_units=4)
    name, value, lower, beside = RunMetric(Measure(data, ["kid"], n=50))(gan)
    assert (name, lower, list(beside)) == ("kid[random_conv_v1]", True, ["kid_std[random_conv_v1]"]) and value > 0


class Painter(TinyGAN):
    """Paints every image in the shade that its label says."""

    conditions = ("label",)

    def generate(self, batch: Batch) -> torch.Tensor:
        assert not self.training
        return (batch.label.view(-1, 1, 1, 1) / 10).expand(-1, 1, 8, 8)


def test_a_conditional_model_is_sampled_under_the_datas_conditions() -> None:
    data, painter = load("scenes", image_size=8, size=50), Painter().train()
    torch.manual_seed(0)
    shades = sampler(painter, data)(200)[:, 0, 0, 0] * 10
    assert painter.training and set(shades.round().int().tolist()) == set(range(6))
    painter.conditions = ("text",)
    with pytest.raises(ValueError, match="generates from 'text', which the data does not have"):
        sampler(painter, data)(2)


# -- collapse ----------------------------------------------------------------------------------------------------------


@dataclass
class Moment:
    """Stands for a trainer at one step."""

    architecture: TinyGAN
    step: int
    steps: int = 8
    seed: int = 0
    device: torch.device = torch.device("cpu")

    def due(self, every: int) -> bool:
        return self.step % every == 0

    def averaged(self):
        return nullcontext(self.architecture)


def test_the_watch_warns_when_a_collapse_begins_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    data = load("scenes", image_size=8, channels=1, size=100)
    images = data.batch(range(100))["image"].float() / 127.5 - 1
    painter = TinyGAN()
    alike = images[:1].expand(100, -1, -1, -1)
    shown = {0: alike, 1: images, 2: alike, 3: alike, 4: images, 6: alike, 7: alike, 8: alike}
    watch = CollapseWatch(CollapseDetector(data, n=100), data, every=1)
    warned = []
    for step, now in shown.items():
        painter.sample = lambda n, now=now: now[:n]
        caplog.clear()
        with caplog.at_level(logging.WARNING, "fastgan"):
            record = watch.on_step(Moment(painter, step))
        assert record["nearest[random_conv_v1]"] == watch.report.samples.nearest
        warned += [step] * len(caplog.records)
    assert warned == [2, 6, 8], "not while samples have never been diverse, nor twice"
    assert "the generator seems to have collapsed at step 8: a sample's nearest neighbour is at 0%" in caplog.text
    again = CollapseWatch(watch.detector, data, every=1)
    again.load_state_dict({"diverse": True})  # as a run saved it that goes on
    caplog.clear()
    again.on_step(Moment(painter, 5))
    assert len(caplog.records) == 1 and again.state_dict() == {"diverse": False}
    painter.sample = lambda n: images * float("nan")
    assert watch.on_step(Moment(painter, 7)) is None
    watch.every = 2
    assert watch.on_step(Moment(painter, 7)) is None
