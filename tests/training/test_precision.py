"""Precision: what autocast covers and what stays float32, scalers and their skipped updates, in graphs and resumed."""

from __future__ import annotations

import json
import logging
import math
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import fastgan
from fastgan.architectures.base import Architecture, Phase
from fastgan.data.batch import Batch
from fastgan.training.callbacks import Callback, GradientAlarm
from fastgan.training.checkpoint import CheckpointError, read_checkpoint
from fastgan.training.precision import choose_precision
from fastgan.training.trainer import Trainer, TrainingDiverged

from .cpu_graphs import CpuRecorder
from .stubs import Images, build

CPU = torch.device("cpu")


class Watched(Architecture):
    """One linear critic; ``seen`` collects dtypes, ``disturb(loss, update)`` is what a test makes of the loss."""

    generators: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict] = {"batch_size": 4}

    def __init__(self, optimizer=fastgan.optim.Adam) -> None:
        super().__init__(self.Config(image_size=4, channels=1))
        torch.manual_seed(0)
        self.critic = nn.Linear(16, 1)
        self.optimizer = partial(optimizer, lr=1e-3)
        self.seen: list[tuple] = []
        self.updates = 0
        self.disturb = lambda loss, update: loss

    def phases(self) -> list[Phase]:
        return [Phase("critic", self.critic.parameters(), self.optimizer, self.loss)]

    def loss(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        real = batch.image.flatten(1)
        logits = self.critic(real)
        penalty = fastgan.ops.gradient_penalty(self.critic, real, -real, weight=0.1)
        # a tenth: whole, the weights' gradients of a mean over 4 images overflow at the first scale, 65536
        adversarial = 0.1 * fastgan.losses.wasserstein_critic(logits, self.critic(-real))
        self.seen.append((logits.dtype, penalty.dtype, adversarial.dtype))
        self.updates += 1
        return {"adversarial": self.disturb(adversarial, self.updates), "penalty": penalty}


def run(architecture: Architecture, **options: object) -> Trainer:
    data = Images(20, architecture.config.image_size)
    trainer = Trainer(architecture, data, **{"steps": 4, "progress": False, "log_every": 1, **options})
    trainer.fit()
    return trainer


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_auto(monkeypatch):
    assert choose_precision("auto", CPU) == "float32"
    for capability, expected in (((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert choose_precision("auto", torch.device("cuda", 0)) == expected
    for name in ("float32", "bfloat16", "float16"):
        assert choose_precision(name, CPU) == name
    with pytest.raises(ValueError, match="precision is 'fp16'; it takes one of auto, float32, bfloat16, float16"):
        run(Watched(), precision="fp16")


@pytest.mark.parametrize("name", ["auto", "float32", "bfloat16", "float16"])
def test_networks_compute_in_it_and_penalty_and_losses_in_float32(name):
    trainer = run(model := Watched(), precision=name)
    dtype = torch.float32 if name == "auto" else getattr(torch, name)
    assert set(model.seen) == {(dtype, torch.float32, torch.float32)}
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())
    assert trainer.config["trainer"]["precision"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["dcgan", "wgan", "wgan_gp", "gan"])
def test_every_architecture_trains_in_half_precision(name, precision):
    """Near the float32 run: whatever the gradient, RMSprop's first updates move a weight by 10 lr at most, Adam's by
    lr; an update that one run skips puts them apart by as much."""
    runs = {kind: build(name, None, steps=2, precision=kind) for kind in (precision, "float32")}
    for trainer in runs.values():
        trainer.fit()
    half, single = (dict(trainer.architecture.named_parameters()) for trainer in runs.values())
    lr = runs["float32"].architecture.config.lr
    updates = 2 * 5  # two steps, n_critic
    for key, weight in half.items():
        assert torch.isfinite(weight).all() and weight.dtype == torch.float32
        assert (weight - single[key]).abs().max() <= 2 * updates * 10 * lr, key
    assert any(not torch.equal(half[key], single[key]) for key in half), "it was float32 after all"


# -- scaling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [fastgan.optim.Adam, fastgan.optim.RMSprop, torch.optim.SGD])
def test_an_overflow_is_skipped_counted_and_forgotten(optimizer, tmp_path):
    """The gradient of the second update is infinite: no weight moves, the scale falls, and training goes on."""
    model, weights = Watched(optimizer), []

    def disturb(loss: torch.Tensor, update: int) -> torch.Tensor:
        weights.append(model.critic.weight.detach().clone())
        return loss * 1e36 if update == 2 else loss  # finite, but not times 65536

    model.disturb = disturb
    trainer = run(model, precision="float16", out=tmp_path, checkpoint_every=4)
    same = [torch.equal(a, b) for a, b in zip(weights, weights[1:], strict=False)]
    assert same == [False, True, False]
    assert [record["critic/skipped"] for record in records(tmp_path)] == [0, 1, 1, 1]
    saved = read_checkpoint(tmp_path / "checkpoints" / "last.safetensors")["precision"]
    assert saved["critic"]["skipped"] == 1
    assert saved["critic"]["scaler"]["scale"] == 32768.0 and saved["critic"]["scaler"]["_growth_tracker"] == 2
    assert not any(p.grad.abs().max() > 100 for p in trainer.architecture.parameters()), "gradients are unscaled"


def test_float32_has_no_scaler(tmp_path):
    run(Watched(), precision="bfloat16", out=tmp_path, checkpoint_every=4)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.safetensors")["precision"] == {}
    assert not any("skipped" in key for record in records(tmp_path) for key in record)


def test_small_gradients_survive_float16():
    """Of a logit's mean over 4 images a hidden unit behind a weight of 1e-6 has the gradient 2.5e-7: 4 units of
    float16's last place, unscaled, and none of them left behind another 1e-2."""
    gradients = {}
    for precision in ("float32", "float16"):
        model = Watched(torch.optim.SGD)
        model.critic = nn.Sequential(nn.Linear(16, 1), nn.Linear(1, 1), nn.Linear(1, 1))
        for layer, weight in ((model.critic[1], 1e-2), (model.critic[2], 1e-6)):
            nn.init.constant_(layer.weight, weight)
        critic = model.critic
        model.loss = lambda batch, step, critic=critic: {"loss": -critic(batch.image.flatten(1)).float().mean()}
        run(model, precision=precision, steps=1)
        gradients[precision] = model.critic[0].weight.grad.clone()
    assert gradients["float32"].abs().max() < torch.finfo(torch.float16).smallest_normal / 2**10
    torch.testing.assert_close(gradients["float16"], gradients["float32"], rtol=0.02, atol=1e-10)


def test_a_gradient_that_overflows_at_any_scale_stops_the_run():
    model = Watched()
    model.disturb = lambda loss, update: loss + (model.critic.bias * 0.0).sqrt().sum()  # finite, its slope 0 / 0
    with pytest.raises(
        TrainingDiverged, match="the gradient of phase 'critic' overflows float16 at any scale at step 17"
    ):
        run(model, precision="float16", steps=40)


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    """The scale fell in the second update: one that began anew at the third would round gradients otherwise."""
    states = []
    for out, parts in ((tmp_path / "whole", [6]), (tmp_path / "parts", [3, 6])):
        for steps in parts:
            model = Watched()
            if steps != 6 or len(parts) == 1:  # the second part's own second update is the fifth
                model.disturb = lambda loss, update: loss * (1e36 if update == 2 else 1.0)
            run(model, precision="float16", out=out, steps=steps, checkpoint_every=3)
        states.append(read_checkpoint(out / "checkpoints" / "last.safetensors"))
    whole, parts = states
    assert torch.equal(whole["model"]["critic.weight"], parts["model"]["critic.weight"])
    moments = [state["optimizers"]["critic"]["state"][0]["exp_avg_sq"] for state in states]
    assert torch.equal(*moments)
    assert whole["precision"] == parts["precision"] and whole["precision"]["critic"]["scaler"]["scale"] == 32768.0


def test_scaled_updates_in_a_graph(recorder: CpuRecorder):
    """An overflow in a replay is skipped and counted as in an eager update."""
    weights, counts = [], []
    for cuda_graph in (False, True):
        model = Watched()
        big = torch.ones(())
        model.disturb = lambda loss, update, big=big: loss * big
        trainer = Trainer(
            model, Images(20), steps=9, progress=False, log_every=None, precision="float16", cuda_graph=cuda_graph,
            callbacks=[Switch(big)],
        )  # fmt: skip
        trainer.fit()
        weights.append(model.critic.weight.detach().clone())
        counts.append(trainer.precision.record())
    assert trainer.updates.report["train/critic"] == "recorded" and recorder.replays > 0
    assert counts == [{"critic/skipped": 1}] * 2
    assert torch.equal(*weights)


class Switch(Callback):
    """Makes the seventh update overflow, through a tensor that a graph reads."""

    def __init__(self, big: torch.Tensor) -> None:
        self.big = big

    def on_step(self, trainer: Trainer) -> None:
        self.big.fill_(1e36 if trainer.step == 6 else 1.0)


def test_a_capture_that_fails_half_way_leaves_the_scaler_ready(recorder: CpuRecorder):
    class Fragile(fastgan.optim.Adam):
        """Fails while it is recorded, when the scaler has unscaled the gradients already."""

        failed = False

        def step(self, closure=None):
            if recorder.recordings and not self.failed:
                self.failed = True
                raise RuntimeError("not now")
            return super().step(closure)

    weights = []
    for optimizer in (fastgan.optim.Adam, Fragile):
        model = Watched(optimizer)
        trainer = run(model, precision="float16", cuda_graph=optimizer is Fragile, steps=6)
        weights.append(model.critic.weight.detach().clone())
    assert trainer.updates.report["train/critic"] == "eager: RuntimeError: not now"
    assert torch.equal(*weights)


def test_gradients_between_updates_are_unscaled():
    norms = {}
    for precision in ("float32", "float16"):
        trainer = build("dcgan", None, steps=1, precision=precision, callbacks=[GradientAlarm(every=1)])
        trainer.fit()
        gradients = [p.grad for p in trainer.architecture.discriminator.parameters()]
        norms[precision] = torch.nn.utils.get_total_norm(gradients).item()
        assert not any(trainer.precision.record().values())
    assert norms["float16"] == pytest.approx(norms["float32"], rel=0.05)


# -- going on with other options ---------------------------------------------------------------------------------------


def test_resume_must_lets_precision_and_learning_rate_change(tmp_path, caplog):
    sizes = {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}

    def train(steps: int, lr: float = 2e-4, beta1: float = 0.5, **options: object) -> Trainer:
        torch.manual_seed(0)
        model = fastgan.create("dcgan", lr=lr, beta1=beta1, **sizes)
        return run(model, out=tmp_path, steps=steps, sample_every=None, **options)

    def fails(match: str, **options: object) -> None:
        with pytest.raises(CheckpointError, match=match):
            train(4, **options)

    train(2, precision="bfloat16")
    fails("precision: the run has .bfloat16., asked .float32.", precision="float32")
    fails("take resume='must', which lets these change", precision="bfloat16", lr=1e-4)
    fails("beta1: the run has 0.5, asked 0.9", precision="bfloat16", lr=1e-4, beta1=0.9, resume="must")
    with caplog.at_level(logging.WARNING):
        trainer = train(4, lr=1e-4, precision="float32", resume="must")
    assert "architecture.config.lr: the run has 0.0002, asked 0.0001" in caplog.text
    assert trainer.step == 4 and trainer.config["trainer"]["precision"] == "float32"
    for optimizer in trainer.optimizers.values():
        assert [group["lr"] for group in optimizer.param_groups] == [1e-4]
        assert all(state["step"] == 4 for state in optimizer.state.values()), "the moments were kept"
    assert math.isfinite(records(tmp_path)[-1]["generator/adversarial"])


# -- together with the game's options ----------------------------------------------------------------------------------

GAME = {"regularizer": "r1", "label_flip": 0.2, "replay": 5, "discriminator_norm": "spectral", "generator_dropout": 0.2}


@pytest.mark.parametrize("regularizer", ["r1_r2", "gradient_penalty", "dragan"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_penalties_of_a_discriminator_with_batch_norm(precision, regularizer):
    """Its passes differ in precision, so that some run by the kernels and others do not."""
    torch.manual_seed(0)
    model = fastgan.create("dcgan", image_size=16, channels=1, ngf=4, ndf=8, regularizer=regularizer)
    trainer = run(model, steps=2, precision=precision, batch_size=16)
    assert trainer.step == 2 and all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_game_s_options_in_half_precision_and_in_graphs(precision, recorder: CpuRecorder):
    sizes = {"image_size": 16, "channels": 1, "z_dim": 8, "ngf": 4, "ndf": 4}
    states = []
    for cuda_graph in (False, True):
        torch.manual_seed(0)
        model = fastgan.create("dcgan", **sizes, **GAME)
        seen = []
        model.discriminator.register_forward_hook(lambda m, x, y, seen=seen: seen.append((x[0].dtype, y.dtype)))
        handle = next(iter(model.discriminator._forward_hooks))
        run(model, steps=1, precision=precision, batch_size=6)
        assert {y for _, y in seen} == {torch.float32, getattr(torch, precision)}, "the penalty's pass, and the others"
        del model.discriminator._forward_hooks[handle]
        trainer = run(model, steps=6, precision=precision, batch_size=6, cuda_graph=cuda_graph, log_every=None)
        states.append(model.state_dict())
    assert trainer.updates.report == dict.fromkeys(
        ["train/discriminator", "train/generator", "train/averages"], "recorded"
    )
    assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []
