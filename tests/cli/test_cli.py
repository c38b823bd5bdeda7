"""The command line as a user types it: output, exit status, one sentence where something is wrong."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fastgan import registry
from fastgan.architectures.base import option
from fastgan.architectures.dcgan import DCGAN
from fastgan.cli import COMMANDS, main
from fastgan.data import load
from fastgan.training.checkpoint import read_checkpoint

TINY = ["--model.image-size", "16", "--model.ngf", "4", "--model.ndf", "4", "--batch-size", "8", "--limit", "40"]
SHORT = ["--steps", "4", "--log-every", "2", "--sample-every", "2", "--metric-every", "4", "--metric-images", "32"]


@pytest.fixture
def run_folder(tmp_path, capsys) -> Path:
    """A finished tiny run."""
    assert main(["train", "dcgan", *TINY, *SHORT, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_usage_lists_every_command(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_unknown_command_suggests_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "train"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert "--" in capsys.readouterr().out


def test_train_help_has_one_line_for_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["train", "wgan-gp", "--help"])
    out = capsys.readouterr().out
    for name in ("--data", "--steps", "--model.lambda-gp", "--model.image-size", "--resume"):
        assert name in out
    assert "Gulrajani" in out


def test_list_names_papers(capsys):
    assert main(["list"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "Radford" in lines["dcgan"]
    assert {"gan", "dcgan", "wgan", "wgan_gp"} <= set(lines)


def test_info_is_json_on_demand(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"]
    assert facts["extension"]


def test_train_leaves_records_samples_and_checkpoints(run_folder):
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4]
    assert "fid[random_conv_v1]" in records[-1]
    assert {p.name for p in (run_folder / "samples").iterdir()} == {"step_000002.png", "step_000004.png"}
    assert (run_folder / "checkpoints" / "best.safetensors").exists()


def test_train_goes_on_where_it_was(run_folder, capsys):
    longer = [*SHORT, "--steps", "6"]
    assert main(["train", "dcgan", *TINY, *longer, "--out", str(run_folder)]) == 0
    assert "going on from step 4 of 6" in capsys.readouterr().err


def test_train_refuses_other_options_of_a_run(run_folder, capsys):
    before = (run_folder / "metrics.jsonl").read_bytes()
    assert main(["train", "dcgan", *TINY, *SHORT, "--seed", "1", "--out", str(run_folder)]) == 2
    assert "trainer.seed: the run has 0, asked 1" in capsys.readouterr().err
    assert (run_folder / "metrics.jsonl").read_bytes() == before


@pytest.fixture
def turns_nan(monkeypatch) -> str:
    """A DCGAN whose discriminator's loss is NaN from a known step on, where the learning rate is above 1.5e-4."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    @registry.register("turns_nan")
    class TurnsNaN(DCGAN):
        @dataclass(frozen=True)
        class Config(DCGAN.Config):
            nan_at: int = option(5, "the first step with a NaN")

        def discriminator_loss(self, batch, step):
            terms = super().discriminator_loss(batch, step)
            if step + 1 >= self.config.nan_at and self.config.lr > 1.5e-4:
                terms["adversarial"] = terms["adversarial"] * torch.nan
            return terms

    return TurnsNaN.name


NAN = ["--steps", "8", "--log-every", "3", "--checkpoint-every", "2", "--sample-every", "8", "--metric", "none"]


def test_a_nan_keeps_the_last_good_checkpoint_and_says_how_to_go_on(turns_nan, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", turns_nan, *TINY, *NAN, "--out", str(out)]) == 2
    sentence, command, *_ = capsys.readouterr().err.split("fastgan train: ")[1].splitlines()
    assert sentence == (
        "loss 'discriminator/adversarial' is nan in steps 5 to 6: training stopped; "
        f"{out / 'checkpoints' / 'last.safetensors'} holds step 4, the last good state: go on from it with "
        "resume='must' and a smaller learning rate"
    )
    assert sorted(file.name for file in (out / "checkpoints").iterdir()) == ["last.safetensors", "previous.safetensors"]
    assert read_checkpoint(out / "checkpoints" / "last.safetensors")["step"] == 4
    assert command.strip().startswith("fastgan train turns_nan") and command.endswith("--resume must --model.lr 0.0001")
    assert main(shlex.split(command)[1:]) == 0
    assert "going on from step 4 of 8" in capsys.readouterr().err
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [3, 6, 8]
    assert all(isinstance(record["discriminator/adversarial"], float) for record in records)


def test_a_nan_before_any_checkpoint_begins_elsewhere(turns_nan, tmp_path, capsys):
    argv = ["train", turns_nan, *TINY, *NAN, "--out", str(tmp_path / "run"), "--model.nan-at", "1"]
    assert main([*argv, "--precision", "bfloat16"]) == 2
    sentence, command, *_ = capsys.readouterr().err.split("fastgan train: ")[1].splitlines()
    assert "is nan in steps 1 to 2: training stopped; no checkpoint was written: begin anew with a smaller" in sentence
    assert sentence.endswith(", or precision='float32'")
    assert main(shlex.split(command)[1:]) == 0
    assert (tmp_path / "run-again" / "checkpoints" / "last.safetensors").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_gradient_alarm_and_precision_are_options(tmp_path, capsys, caplog):
    options = ["--gradient-alarm", "1e-3", "--precision", "bfloat16", "--metric", "none"]
    options += ["--out", str(tmp_path / "run")]
    assert main(["train", "dcgan", *TINY, *SHORT, *options]) == 0
    assert "the gradient of the discriminator has norm" in caplog.text
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["generator/gradient_norm"] > 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["trainer"]["precision"] == "bfloat16"


def test_tensorboard_that_is_not_installed_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["train", "dcgan", *TINY, *SHORT, "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert "event files need tensorboard: pip install 'fastgan[log]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing(tmp_path, capsys):
    assert main(["train", "dcgan", *TINY, *SHORT, "--dry-run", "--out", str(tmp_path / "run")]) == 0
    assert "phase discriminator" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_sample_writes_a_grid_and_single_images(run_folder, tmp_path, capsys):
    from PIL import Image

    assert main(["sample", str(run_folder), "--n", "6", "--columns", "3", "--out", str(tmp_path / "grid.png")]) == 0
    assert Image.open(tmp_path / "grid.png").size == (3 * 18 + 2, 2 * 18 + 2)
    assert main(["sample", str(run_folder), "--n", "3", "--separate", "--out", str(tmp_path / "many")]) == 0
    assert [p.name for p in sorted((tmp_path / "many").iterdir())] == ["00000.png", "00001.png", "00002.png"]
    assert Image.open(tmp_path / "many" / "00000.png").size == (16, 16)


def test_points_train_and_sample_from_the_command_line(tmp_path, capsys):
    from PIL import Image

    points = ["--data", "gaussians_25", "--limit", "500", "--model.generator", "mlp", "--model.critic", "mlp"]
    small = ["--model.hidden", "8", "--model.n-critic-warmup", "1", *SHORT]
    assert main(["train", "wgan", *points, *small, "--out", str(tmp_path / "run")]) == 0
    assert "gaussians_25: 500 images, 25 classes, 2x1x1" in capsys.readouterr().out
    assert Image.open(tmp_path / "run" / "samples" / "step_000004.png").size == (512, 512)
    assert main(["sample", str(tmp_path / "run"), "--n", "50"]) == 0
    picture = Image.open(tmp_path / "run" / "sample.png")
    assert picture.size == (512, 512) and len(picture.getcolors(1 << 20)) > 3  # white, data and samples
    assert main(["sample", str(tmp_path / "run"), "--separate"]) == 2
    assert "points come in one picture" in capsys.readouterr().err


def train_tiny(name: str, out: Path, *options: str) -> str:
    """The folder of a run of four steps on 16 px scenes."""
    data = ["--data", "scenes", "--limit", "40", "--metric", "none"]
    assert main(["train", name, *data, "--model.image-size", "16", *options, *SHORT, "--out", str(out)]) == 0
    return str(out)


CONV = ["--model.network", "dcgan", "--model.ngf", "4", "--model.ndf", "4"]


def test_sample_draws_a_column_for_each_class(tmp_path):
    from PIL import Image

    run, classes = train_tiny("cgan", tmp_path / "run", *CONV), len(load("scenes", size=1).classes)
    grid, one = tmp_path / "grid.png", tmp_path / "one"
    assert main(["sample", run, "--n", str(2 * classes), "--out", str(grid)]) == 0
    assert Image.open(grid).size == (classes * 18 + 2, 2 * 18 + 2)
    for label in ("0", "1"):
        assert main(["sample", run, "--n", "1", "--label", label, "--separate", "--out", str(one / label)]) == 0
    assert (one / "0" / "00000.png").read_bytes() != (one / "1" / "00000.png").read_bytes(), "from the same noise"


def test_sample_names_a_label_that_cannot_be_drawn(tmp_path, run_folder, capsys):
    assert main(["sample", train_tiny("cgan", tmp_path / "cgan", *CONV), "--label", "99"]) == 2
    assert "label is 99; cgan has the classes 0 to" in capsys.readouterr().err
    assert main(["sample", str(run_folder), "--label", "0"]) == 2
    assert "dcgan draws no images of a class: leave --label out" in capsys.readouterr().err


def test_sample_gives_a_model_of_images_those_of_its_run(tmp_path):
    from PIL import Image

    run = train_tiny("cgan", tmp_path / "run", *CONV, "--model.condition", "context", "--model.image-size", "32")
    assert main(["sample", run, "--n", "4", "--split", "test", "--columns", "2"]) == 0
    assert Image.open(tmp_path / "run" / "sample.png").size == (2 * 34 + 2, 2 * 34 + 2)


def test_sample_says_that_a_classifier_draws_nothing(tmp_path, capsys):
    assert main(["sample", train_tiny("vat", tmp_path / "run", "--model.width", "4")]) == 2
    assert "vat is a classifier" in capsys.readouterr().err


def test_a_query_makes_a_plain_run_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "dcgan", "--data", "scenes?vary=shape,x&labels=6", *TINY, *SHORT]) == 0
    assert (tmp_path / "runs" / "dcgan-scenes-vary-shape-x-labels-6" / "config.json").exists()
    assert main(["evaluate", "runs/dcgan-scenes-vary-shape-x-labels-6", "--samples", "20", "--metrics", "kid"]) == 0
    assert "6 of 40 labels kept" in capsys.readouterr().out


def test_sample_is_repeatable(run_folder, tmp_path):
    for name in ("a", "b"):
        main(["sample", str(run_folder), "--n", "4", "--seed", "3", "--out", str(tmp_path / f"{name}.png")])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_evaluate_prints_and_keeps_a_record(run_folder, tmp_path, capsys):
    few = ["--samples", "20", "--metrics", "kid", "recall"]
    assert main(["evaluate", str(run_folder), *few]) == 0
    out = capsys.readouterr().out
    assert "kid[random_conv_v1]" in out and "lower is better" in out and "40 images" in out
    best = run_folder / "checkpoints" / "best.safetensors"
    assert main(["evaluate", str(best), *few, "--no-ema", "--seed", "3", "--split", "test"]) == 0
    first, second = map(json.loads, (run_folder / "evaluation.jsonl").read_text().splitlines())
    assert first["step"] == second["step"] == 4 and first["checkpoint"] == "best.safetensors"
    assert (first["ema"], second["ema"], first["seed"], second["seed"]) == (True, False, 0, 3)
    assert list(first["values"]) == [f"{name}[random_conv_v1]" for name in ("kid", "kid_std", "recall")]
    assert first["values"] != second["values"] and "split test" in second["data"]
    assert main(["evaluate", str(run_folder), *few]) == 0
    assert json.loads((run_folder / "evaluation.jsonl").read_text().splitlines()[2]) == first


def test_evaluate_in_a_net_trained_here(run_folder, tmp_path, capsys):
    net = tmp_path / "shapes.safetensors"
    options = ["--data", "scenes", "--image-size", "16", "--limit", "40", "--epochs", "1", "--batch-size", "20"]
    assert main(["train-features", *options, "--out", str(net)]) == 0
    name = capsys.readouterr().out.split()[1].rstrip(",")
    assert name.startswith("scenes_cnn-")
    options = ["--features", str(net), "--samples", "40", "--metrics", "is", "fid"]
    with pytest.warns(UserWarning, match="fid of 40 images with the 128 features"):
        assert main(["evaluate", str(run_folder), *options]) == 0
    record = json.loads((run_folder / "evaluation.jsonl").read_text())
    assert list(record["values"]) == [f"is[{name}]", f"is_std[{name}]", f"fid[{name}]"]
    assert record["features"] == name and record["collapse"]["samples"]["modes"] > 0


def test_plot_draws_a_run(run_folder, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture: pip install 'fastgan[plots]'")
    assert main(["plot", str(run_folder)]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "progress.png")
    assert (run_folder / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_report_writes_a_page(run_folder, tmp_path, capsys):
    assert main(["report", str(run_folder)]) == 0
    assert capsys.readouterr().out.strip() == str(run_folder / "report.html")
    page = (run_folder / "report.html").read_text()
    assert "best fid[random_conv_v1], at step 4" in page and page.count("<img") == 2 and "capability" in page
    assert main(["report", str(run_folder), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == page


def test_profile_of_a_run_leaves_it_as_it_was(run_folder, tmp_path, capsys):
    before = {file: file.read_bytes() for file in run_folder.rglob("*") if file.is_file()}
    trace = tmp_path / "trace.json"
    assert main(["profile", str(run_folder), "--steps", "1", "--device", "cpu", "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dcgan, 16 px, batch 8, float32 on cpu") and trace.exists()
    for words in ("kernels busy ", "waiting for data", "discriminator ", "optimiser ", "generator.layers.0 "):
        assert f"\n{words}" in out
    assert {file: file.read_bytes() for file in run_folder.rglob("*") if file.is_file()} == before


def test_what_evaluate_cannot_do_is_one_sentence_and_no_record(run_folder, capsys):
    for options, words in [
        (["--metrics", "fdi"], "did you mean 'fid'"),
        (["--metrics", "is"], "needs a net with classes; random_conv_v1 has none"),
        (["--samples", "3"], "precision takes at least 4"),
        (["--features", "no/net.safetensors"], "train-features --out no/net.safetensors"),
        (["--data", "no/such/folder"], "neither a data set nor a path"),
    ]:
        assert main(["evaluate", str(run_folder), "--metrics", "prdc", *options]) == 2
        err = capsys.readouterr().err
        assert words in err and "Traceback" not in err
    assert not (run_folder / "evaluation.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "dcgn"], "did you mean 'dcgan'"),
        (["train", "dcgan", "--data", "no/such/folder"], "neither a data set nor a path"),
        (["train", "dcgan", "--model.image-size", "48"], "image_size takes a power of two"),
        (["train", "--data", "scenes"], "NAME comes first"),
        (["sample", "no/such/run"], "no/such/run"),
        (["evaluate", "no/such/run"], "no/such/run"),
        (["profile", "no/such/run"], "no/such/run"),
        (["profile", "dcgn"], "did you mean 'dcgan'"),
        (["profile", "dcgan", "--steps", "0"], "steps is 0"),
        (["report", "no/such/run"], "there is no run in no/such/run"),
        (["plot", "no/such/run"], "there is no no/such/run/metrics.jsonl"),
        (["train", "dcgan", "--metric", "fidd"], "did you mean 'fid'"),
        (["reproduce", "gan-2d"], "did you mean 'gan_1d'"),
    ],
)
def test_mistakes_are_one_sentence(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_grey_folder_of_any_size_trains(tmp_path, capsys):
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for i in range(10):
        Image.new("L", (20 + i, 33), color=20 * i).save(images / f"{i}.png")
    (images / "broken.png").write_bytes(b"\x89PNG no more")
    options = ["--data", str(images), "--batch-size", "5", *TINY[:6], *SHORT]
    with pytest.warns(UserWarning, match=r"broken\.png"):
        assert main(["train", "dcgan", *options, "--skip-broken", "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architecture"]["config"]["channels"] == 1
    assert main(["train", "dcgan", *options, "--out", str(tmp_path / "refused")]) == 2
    assert "broken.png" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_python_m_fastgan_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fastgan", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fastgan 0.")
