"""interpolate, arithmetic, probe and filters as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import registry
from fastgan.architectures.dcgan import DCGAN
from fastgan.architectures.gan import GAN
from fastgan.cli import main
from fastgan.training.trainer import Trainer


def train(architecture, out: Path, data="scenes") -> Path:
    """A run of one step."""
    from fastgan.training.options import open_data

    if isinstance(data, str):
        data = open_data(data, image_size=architecture.config.image_size, size=40)
    Trainer(architecture, data, steps=1, batch_size=8, out=out, progress=False, device="cpu").fit()
    return out


def tiny(**options) -> DCGAN:
    return registry.create("dcgan", **{"image_size": 16, "ngf": 2, "ndf": 4, **options})


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = tiny()
    model.generator.layers[-2].weight.data *= 1000  # images that differ from each other
    return train(model, tmp_path_factory.mktemp("trained") / "run")


class LabelledDCGAN(DCGAN):
    """A class is seen as the brightness of all pixels."""

    conditions = ("label",)

    def generate(self, batch):
        return torch.zeros(len(batch), 3, 16, 16) + batch.label.view(-1, 1, 1, 1) / 4

    @property
    def config(self):
        return self._config

    @config.setter
    def config(self, value):
        object.__setattr__(value, "num_classes", 4)
        self._config = value


@pytest.fixture
def labelled_run(run_folder, monkeypatch) -> Path:
    """The run of a model that makes images of four classes."""
    monkeypatch.setattr(registry, "get", lambda name: LabelledDCGAN)
    monkeypatch.setattr(registry, "create", lambda name, **options: LabelledDCGAN(DCGAN.Config(**options)))
    return run_folder


def test_interpolate_writes_rows_and_a_gif_that_closes(run_folder, tmp_path, capsys):
    options = ["--n", "3", "--steps", "4", "--frames", "2", "--points", "2"]
    assert main(["interpolate", str(run_folder), *options, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"interpolation.{kind}") for kind in ("png", "gif")]
    assert Image.open(tmp_path / "interpolation.png").size == (4 * 18 + 2, 3 * 18 + 2)
    gif = Image.open(tmp_path / "interpolation.gif")
    assert gif.n_frames == 4 and gif.size == (3 * 66 + 2, 66 + 2)
    assert main(["interpolate", str(run_folder), *options, "--along", "linear"]) == 0
    straight = (run_folder / "interpolation.png").read_bytes()
    assert straight != (tmp_path / "interpolation.png").read_bytes()
    assert main(["interpolate", str(run_folder), *options, "--along", "linear"]) == 0
    assert straight == (run_folder / "interpolation.png").read_bytes()


def test_interpolate_holds_the_class_along_a_row(labelled_run, tmp_path):
    options = ["--n", "3", "--steps", "2", "--frames", "1", "--out", str(tmp_path)]
    assert main(["interpolate", str(labelled_run), *options]) == 0
    rows = np.asarray(Image.open(tmp_path / "interpolation.png"))[10::18, 10::18, 0]
    assert rows.tolist() == [[128, 128], [159, 159], [191, 191]]
    assert main(["interpolate", str(labelled_run), *options, "--label", "1"]) == 0
    assert (np.asarray(Image.open(tmp_path / "interpolation.png"))[10::18, 10::18, 0] == 159).all()


def test_arithmetic_writes_the_sheet_and_then_the_picture(run_folder, tmp_path, capsys):
    assert main(["arithmetic", str(run_folder), "--sheet", "--n", "12"]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "arithmetic-sheet.png")
    sheet = np.asarray(Image.open(run_folder / "arithmetic-sheet.png"))
    assert main(["arithmetic", str(run_folder), "--a", "3,7,4", "--b", "1,5", "--c", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "arithmetic.png")
    picture = np.asarray(Image.open(run_folder / "arithmetic.png"))
    tile_x, tile_y = 64 + 4, 64 + 4 + 12

    def tile(pixels, row, column):
        return pixels[row * tile_y + 2 : row * tile_y + 66, column * tile_x + 2 : column * tile_x + 66].astype(int)

    assert picture.shape == (4 * tile_y, 9 * tile_x, 3)
    assert abs(tile(sheet, 0, 3) - tile(sheet, 0, 5)).max() > 50
    assert (
        abs(tile(picture, 0, 0) - tile(sheet, 0, 3)).max() <= 1
    )  # sample 3 of the sheet, from a batch of another size
    assert abs(tile(picture, 2, 2) - tile(sheet, 0, 5)).max() <= 1  # the last of b, just above its mean
    assert abs(tile(picture, 3, 4) - tile(sheet, 0, 2)).max() <= 1  # the mean of one sample is the sample
    assert main(["arithmetic", str(run_folder), "--a", "4", "--b", "9", "--c", "9", "--noise", "0"]) == 0
    picture = np.asarray(Image.open(run_folder / "arithmetic.png"))
    for row in (1, 2, 3):
        for column in (6, 7, 8):  # a - b + b, and neighbours without noise
            assert abs(tile(picture, row, column) - tile(sheet, 0, 4)).max() <= 1


def test_probe_prints_a_table_and_keeps_a_record(run_folder, capsys):
    assert main(["probe", str(run_folder), "--images", "60", "--test-images", "30", "--seed", "2"]) == 0
    out = capsys.readouterr().out
    assert "the run's discriminator" in out and "raw pixels" in out and "768 features" in out
    (record,) = map(json.loads, (run_folder / "probe.jsonl").read_text().splitlines())
    assert record["step"] == 1 and record["seed"] == 2
    assert record["trained"]["dim"] == 192 and record["trained"]["train_images"] == 60
    assert record["pixels"]["test_images"] == 30 and 0 <= record["untrained"]["accuracy"] <= 1


def test_filters_writes_a_picture(run_folder, capsys):
    assert main(["filters", str(run_folder), "--images", "20", "--channels", "2", "--top", "3", "--layer", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "filters.png")
    assert Image.open(run_folder / "filters.png").size == (7 * 52, 5 * 52)
    before = (run_folder / "filters.png").read_bytes()
    assert main(["filters", str(run_folder), "--images", "20", "--channels", "2", "--top", "3"]) == 0
    assert (run_folder / "filters.png").read_bytes() != before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["interpolate", "--n", "0"], "n is 0"),
        (["interpolate", "--steps", "1"], "steps is 1"),
        (["interpolate", "--label", "1"], "dcgan makes images from noise alone"),
        (["arithmetic"], "either --sheet, or numbers"),
        (["arithmetic", "--sheet", "--a", "1"], "either --sheet, or numbers"),
        (["arithmetic", "--a", "1", "--b", "x", "--c", "2"], "--b is 'x'; it takes numbers from the sheet"),
        (["arithmetic", "--a", "1", "--b", "2"], "--c is ''"),
        (["arithmetic", "--a", "1", "--b", "2", "--c", "100"], "c names sample 100; there are 0 to 99"),
        (["probe", "--images", "3"], "images is 3"),
        (["probe", "--discriminator", "critic"], "has no discriminator 'critic'"),
        (["probe", "--data", "no/such/folder"], "neither a data set nor a path"),
        (["filters", "--layer", "3"], "layer is 3; this discriminator has the convolutions 1 to 2"),
        (["filters", "--layer", "1", "--channels", "9"], "channels 0 to 3"),
    ],
)
def test_mistakes_are_one_sentence(argv, words, run_folder, capsys):
    before = {file: file.stat().st_mtime_ns for file in run_folder.rglob("*")}
    assert main([argv[0], str(run_folder), *argv[1:]]) == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err
    assert {file: file.stat().st_mtime_ns for file in run_folder.rglob("*")} == before


@pytest.mark.parametrize("command", ["interpolate", "arithmetic", "probe", "filters"])
def test_a_run_that_is_not_there(command, capsys):
    assert main([command, "no/such/run", *(["--sheet"] if command == "arithmetic" else [])]) == 2
    assert "no/such/run" in capsys.readouterr().err


def test_a_class_has_to_be_chosen_for_arithmetic(labelled_run, capsys):
    assert main(["arithmetic", str(labelled_run), "--sheet"]) == 2
    assert "choose one, such as --label 0" in capsys.readouterr().err
    assert main(["arithmetic", str(labelled_run), "--sheet", "--label", "4"]) == 2
    assert "the classes 0 to 3" in capsys.readouterr().err


def test_data_points_perceptrons_and_data_without_labels(tmp_path, capsys):
    points = GAN(GAN.Config(image_size=1, channels=2, z_dim=2, hidden=4, maxout_units=2))
    train(points, tmp_path / "points", torch.randn(40, 2, 1, 1))
    assert main(["interpolate", str(tmp_path / "points")]) == 2
    assert "makes data points" in capsys.readouterr().err
    assert main(["probe", str(tmp_path / "points")]) == 2
    assert "give --data" in capsys.readouterr().err
    perceptron = train(GAN(GAN.Config(image_size=16, hidden=4, maxout_units=2)), tmp_path / "perceptron")
    assert main(["filters", str(perceptron), "--images", "20"]) == 2
    assert "no convolution with a result of at least 4x4" in capsys.readouterr().err
    folder = tmp_path / "images"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / split / "0.png")
    assert main(["probe", str(perceptron), "--data", str(folder)]) == 2
    assert "has no labels" in capsys.readouterr().err
