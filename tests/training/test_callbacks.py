"""Sample grids, the best checkpoint, progress, gradient alarms, and pictures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastgan
from fastgan.architectures.base import Architecture, Phase
from fastgan.data.batch import Batch
from fastgan.training.callbacks import BestMetric, GradientAlarm, SampleGrid
from fastgan.training.checkpoint import read_checkpoint
from fastgan.training.grid import make_grid, make_scatter, save_grid
from fastgan.training.trainer import Trainer

from .stubs import Images, TinyGAN


def run(architecture: TinyGAN, out: Path | None, **options: object) -> Trainer:
    trainer = Trainer(architecture, Images(20), out=out, **{"steps": 4, "progress": False, **options})
    trainer.fit()
    return trainer


def test_grid_lays_images_out_row_by_row() -> None:
    images = torch.stack([torch.full((1, 2, 3), value) for value in (-1.0, 0.0, 1.0, 5.0, float("nan"))])
    grid = make_grid(images, columns=2, gap=1)
    assert grid.shape == (3 * 3 + 1, 2 * 4 + 1, 1) and grid.dtype == torch.uint8
    cells = [grid[1 + 3 * r : 3 + 3 * r, 1 + 4 * c : 4 + 4 * c].unique().tolist() for r in range(3) for c in range(2)]
    assert cells == [[0], [128], [255], [255], [0], [0]]
    assert grid[0].max() == 0 and grid[3].max() == 0


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA"), (2, "L"), (7, "L")])
def test_pictures_of_any_channel_count(tmp_path: Path, channels: int, mode: str) -> None:
    images = torch.rand(3, channels, 4, 4) * 2 - 1
    path = save_grid(images, tmp_path / "new" / "grid.png", columns=8)
    with Image.open(path) as picture:
        assert picture.mode == mode and picture.size == (3 * 6 + 2, 6 + 2)
        assert np.array_equal(np.asarray(picture), make_grid(images).squeeze(2).numpy())


def test_one_image_without_a_gap_is_that_image(tmp_path: Path) -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4) / 6 - 1
    with Image.open(save_grid(image, tmp_path / "one.png", columns=1, gap=0)) as picture:
        assert np.array_equal(np.asarray(picture), ((image[0, 0] + 1) * 127.5).round().to(torch.uint8).numpy())


def test_bad_grids() -> None:
    with pytest.raises(ValueError, match=r"images has shape \(3, 4, 4\); a grid takes \(N, C, H, W\)"):
        make_grid(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="columns is 0"):
        make_grid(torch.zeros(1, 1, 4, 4), columns=0)


def test_samples_come_from_the_same_noise_and_the_average(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class Recording(TinyGAN):
        def generate(self, batch: Batch) -> torch.Tensor:
            assert not self.training
            seen.append(batch.latent.clone())
            return super().generate(batch)

    trainer = run(Recording(), tmp_path, sample_every=2)
    assert len(seen) == 2 and torch.equal(seen[0], seen[1]) and seen[0].shape == (64, 3)
    with trainer.averaged():
        images = TinyGAN.generate(trainer.architecture, Batch(latent=seen[0]))
    with Image.open(tmp_path / "samples" / "step_000004.png") as picture:
        assert np.array_equal(np.asarray(picture), make_grid(images).squeeze(2).numpy())
    state = read_checkpoint(tmp_path / "checkpoints" / "last.safetensors")
    assert torch.equal(state["callbacks"]["SampleGrid"]["latent"], seen[0])


def test_conditions_are_those_of_the_first_items(tmp_path: Path) -> None:
    seen: list[Batch] = []

    class Conditional(TinyGAN):
        conditions: ClassVar[tuple[str, ...]] = ("label",)

        def generate(self, batch: Batch) -> torch.Tensor:
            seen.append(batch)
            return super().generate(batch)

    run(Conditional(), tmp_path, sample_every=4)
    assert seen[-1].label.tolist() == [i % 3 for i in range(16)]  # 20 items make a grid of 4 x 4
    assert seen[-1].image is None and len(seen[-1].latent) == 16


@pytest.mark.parametrize("shape", [(64, 3, 1, 1), (64, 5, 1, 4, 4), None])
def test_what_is_no_picture_gets_no_grid(tmp_path: Path, shape: tuple | None) -> None:
    class Other(TinyGAN):
        def generate(self, batch: Batch) -> torch.Tensor:
            if shape is None:
                raise NotImplementedError
            return torch.zeros(shape)

    run(Other(), tmp_path, sample_every=1)
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("name", ["gaussian", "gaussians_8"])
def test_points_are_drawn_with_those_of_the_data(tmp_path: Path, name: str) -> None:
    data = fastgan.data.load(name, size=300)
    wgan = fastgan.create(
        "wgan", image_size=1, channels=data.channels, generator="mlp", critic="mlp", hidden=4, z_dim=2,
        n_critic_warmup=1, n_critic=1,
    )  # fmt: skip
    trainer = Trainer(wgan, data, steps=2, batch_size=8, out=tmp_path, sample_every=1, progress=False)
    trainer.fit()
    noise = read_checkpoint(tmp_path / "checkpoints" / "last.safetensors")["callbacks"]["SampleGrid"]["latent"]
    assert len(noise) == 300
    with trainer.averaged() as architecture:
        samples = architecture.generate(Batch(latent=noise))
    with Image.open(tmp_path / "samples" / "step_000002.png") as picture:
        assert np.array_equal(np.asarray(picture), make_scatter(samples, data.batch(range(300))["image"]).numpy())


def at(picture: torch.Tensor) -> dict[str, set[tuple[int, int]]]:
    """Places (row, column) that are not white, by the colour that they are nearest to."""
    red, blue = picture[..., 0].int(), picture[..., 2].int()
    inked = {"data": red > blue, "samples": blue > red}
    return {name: {tuple(place) for place in mask.nonzero().tolist()} for name, mask in inked.items()}


def test_scatter_puts_points_where_they_lie() -> None:
    corners = torch.tensor([[0.0, 0.0], [10.0, 10.0], [float("nan"), 3.0]]).view(3, 2, 1, 1)
    sample = torch.tensor([[10.0, 0.0], [50.0, 0.0], [0.0, float("inf")]]).view(3, 2, 1, 1)
    picture = make_scatter(sample, corners, size=120)
    assert picture.shape == (120, 120, 3) and picture.dtype == torch.uint8
    # axes from -1 to 11, ten pixels a unit: 0 is column 10 and row 120 - 1 - 10
    dots = {place: {(place[0] + i, place[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
            for place in ((109, 10), (9, 110), (109, 110))}  # fmt: skip
    assert at(picture) == {"data": dots[109, 10] | dots[9, 110], "samples": dots[109, 110]}
    # more points in one place are darker; the axes are the data's, whatever the samples
    dense = make_scatter(sample[:1].expand(9, -1, -1, -1), corners, size=120)
    assert dense[109, 110, 0] < picture[109, 110, 0] and torch.equal(dense[5, 105:115], picture[5, 105:115])


def test_scatter_of_numbers_is_two_histograms() -> None:
    data = torch.linspace(0, 10, 1001).view(-1, 1, 1, 1)
    picture = make_scatter(torch.full((5, 1, 1, 1), 2.5), data, size=120)
    places = at(picture)
    assert {column // 8 for _, column in places["samples"]} == {35 // 8}  # (2.5 + 1) * 10 pixels
    assert {column // 8 for _, column in places["data"] | places["samples"]} == set(range(1, 14))
    heights = [sum(column == 60 for _, column in places["data"]), sum(column == 36 for _, column in places["samples"])]
    assert heights == [pytest.approx(120 * 120 / 4 / 100, abs=1), 120]  # a uniform density, and all in one bar


@pytest.mark.parametrize("samples", [torch.zeros(0, 2, 1, 1), torch.full((4, 2, 1, 1), float("nan"))])
def test_scatter_of_nothing_is_white(samples: torch.Tensor) -> None:
    assert make_scatter(samples, torch.rand(3, 2, 1, 1) * 0 + float("nan"), size=16).eq(255).all()


@pytest.mark.parametrize(("samples", "data"), [((4, 3, 1, 1), None), ((4, 2), None), ((4, 2, 1, 1), (4, 1, 1, 1))])
def test_bad_scatters(samples: tuple, data: tuple | None) -> None:
    with pytest.raises(ValueError, match=r"a scatter takes points \(N, 1, 1, 1\) or \(N, 2, 1, 1\)"):
        make_scatter(torch.zeros(samples), None if data is None else torch.zeros(data))


@pytest.mark.parametrize(("lower", "values", "best"), [(True, [3, 1, 2, 5], 2), (False, [3, 1, 4, float("nan")], 3)])
def test_the_best_checkpoint_is_kept(tmp_path: Path, lower: bool, values: list[float], best: int) -> None:
    coming, weights = iter(values), []

    def metric(architecture: TinyGAN) -> tuple[str, float, bool]:
        weights.append(architecture.generator[0].weight.clone())
        return "quality", next(coming), lower

    trainer = run(TinyGAN(), tmp_path, metric=metric, metric_every=1)
    state = read_checkpoint(tmp_path / "checkpoints" / "best.safetensors")
    assert state["step"] == best and state["metric"] == {"name": "quality", "value": values[best - 1]}
    assert torch.equal(state["ema"]["tensors"]["generator.0.weight"], weights[best - 1])
    assert next(c for c in trainer.callbacks if isinstance(c, BestMetric)).best_step == best
    assert ('"quality": null' in (tmp_path / "metrics.jsonl").read_text()) == (not lower)


def test_every_measurement_sees_the_same_random_numbers() -> None:
    drawn = []
    run(TinyGAN(), None, metric_every=1, metric=lambda gan: ("m", drawn.append(gan.latent(2)) or 0.0, True))
    assert len(drawn) == 4 and all(torch.equal(drawn[0], other) for other in drawn)


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    run(TinyGAN(), None, log_every=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/4", "step 4/4"]
    assert "critic/wasserstein" in lines[0]


def test_in_memory_there_are_no_samples() -> None:
    trainer = run(TinyGAN(), None, sample_every=1)
    assert trainer.run is None and any(isinstance(callback, SampleGrid) for callback in trainer.callbacks)


class Slopes(Architecture):
    """Two scalars whose gradients are numbers that a test sets."""

    generators: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__(self.Config(image_size=4, channels=1))
        self.critic, self.painter = nn.Linear(1, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.slopes: dict[str, list[float]] = {"critic": [1.0] * 9, "painter": [1.0] * 9}

    def phases(self) -> list[Phase]:
        sgd = partial(torch.optim.SGD, lr=1e-30)

        def loss(name: str, batch: fastgan.Batch, step: int) -> dict[str, torch.Tensor]:
            return {"loss": getattr(self, name).weight.sum() * self.slopes[name][step]}

        return [
            Phase(name, getattr(self, name).parameters(), sgd, partial(loss, name)) for name in ("critic", "painter")
        ]


def watch(model: Slopes, out: Path | None = None, **options: object) -> None:
    options = {"steps": 6, "progress": False, "callbacks": [GradientAlarm(every=1)], "log_every": None, **options}
    fastgan.Trainer(model, Images(20), batch_size=4, out=out, **options).fit()


def test_gradient_alarm_names_network_and_step_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Slopes()
    model.slopes["painter"] = [1.0, 100.0, 100.0, 1.0, 1e3, 1e-9]
    watch(model, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "the gradient of the painter has norm 141 at step 2, not within 100",  # sqrt(2) * 100, and at step 3 again
        "the gradient of the painter has norm 1.41e+03 at step 5, not within 100",
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    norms = [line["painter/gradient_norm"] for line in lines]
    assert norms == pytest.approx([2**0.5 * slope for slope in model.slopes["painter"]])
    assert [line["critic/gradient_norm"] for line in lines] == [1.0] * 6


def test_gradient_alarm_at_vanishing_and_infinite_gradients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Slopes()
    model.slopes["critic"] = [0.0, 1.0]
    watch(model, tmp_path, steps=2)
    assert "the gradient of the critic has norm 0 at step 1, below 1e-07" in caplog.text
    model = Slopes()
    model.slopes["critic"] = [float("inf")]
    with pytest.raises(fastgan.training.trainer.TrainingDiverged):
        watch(model, tmp_path / "second", steps=1, log_every=1)
    alarm = GradientAlarm()
    alarm._judge("critic", float("nan"), 3)
    assert "the gradient of the critic has norm nan at step 3" in caplog.text


def test_gradient_alarm_goes_on_warned(caplog: pytest.LogCaptureFixture) -> None:
    first, second = GradientAlarm(every=1), GradientAlarm(every=1)
    first._judge("critic", 1e3, 1)
    second.load_state_dict(first.state_dict())
    second._judge("critic", 1e3, 2)
    assert len(caplog.records) == 1


def test_gradient_alarm_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="GradientAlarm reads gradients between updates"):
        watch(Slopes(), cuda_graph=True)
    with pytest.raises(ValueError, match="smallest is 2 and largest 1"):
        GradientAlarm(largest=1, smallest=2)
