"""The trainer's walk: phases, batches, gradients, schedules, records, guards and arguments."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import fastgan
from fastgan.architectures.base import Architecture, Phase, Stage, option
from fastgan.training.callbacks import Callback
from fastgan.training.trainer import Trainer, TrainingDiverged

from .stubs import Images, TinyGAN, build


class Walk(Architecture):
    """Two scalars and a list of everything the trainer does with them."""

    generators: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict] = {"batch_size": 2}

    def __init__(self) -> None:
        super().__init__(self.Config(image_size=4, channels=1))
        self.a, self.b, self.frozen = (nn.Linear(1, 1, bias=False) for _ in range(3))
        self.frozen.requires_grad_(False)
        self.events: list[tuple] = []
        self.batches: list[list[int]] = []

    def phase(self, name: str, module: nn.Module, **options: object) -> Phase:
        def loss(batch: fastgan.Batch, step: int) -> dict[str, torch.Tensor]:
            wanted = {n for n, p in self.named_parameters() if p.requires_grad}
            self.events.append((name, step, wanted))
            self.batches.append(batch.index.tolist())
            weight = module.weight.sum()
            return {"first": weight, "second": 2 * weight, "logged": torch.tensor(float(step))}

        return Phase(name, module.parameters(), lambda p: torch.optim.SGD(p, lr=0.1), loss, **options)

    def stages(self) -> list[Stage]:
        critic = self.phase("critic", self.a, repeat=lambda step: 3 if step == 0 else 2)
        shared = self.phase("shared", self.b, fresh_batch=False)
        return [Stage("one", [critic, shared], steps=2), Stage("two", [self.phase("late", self.b)])]


def run(architecture: Architecture, data: object = None, **options: object) -> Trainer:
    options = {"progress": False, "steps": 4, **options}
    trainer = Trainer(architecture, data or Images(20), **options)
    trainer.fit()
    return trainer


def test_phases_run_in_order_and_repeat() -> None:
    walk = Walk()
    run(walk)
    assert [event[:2] for event in walk.events] == [
        *[("critic", 0)] * 3, ("shared", 0), *[("critic", 1)] * 2, ("shared", 1), ("late", 0), ("late", 1),
    ]  # fmt: skip


def test_fresh_and_shared_batches() -> None:
    walk = Walk()
    trainer = run(walk)
    drawn = [*walk.batches[:3], *walk.batches[4:6], *walk.batches[7:]]
    assert walk.batches[3] == walk.batches[2] and walk.batches[6] == walk.batches[5]
    assert trainer.batches.position == len(drawn) == 7
    assert len({tuple(batch) for batch in drawn}) == 7  # 20 items in batches of 2: all within one epoch


def test_the_first_phase_of_a_step_always_draws() -> None:
    walk = Walk()
    walk.stages = lambda: [Stage("only", [walk.phase("shared", walk.a, fresh_batch=False)])]
    trainer = run(walk)
    assert trainer.batches.position == 4


def test_only_the_phase_s_own_parameters_require_grad_and_all_are_put_back() -> None:
    walk = Walk()
    run(walk)
    assert {(name, tuple(wanted)) for name, _, wanted in walk.events} == {
        ("critic", ("a.weight",)), ("shared", ("b.weight",)), ("late", ("b.weight",)),
    }  # fmt: skip
    assert [p.requires_grad for p in (walk.a.weight, walk.b.weight, walk.frozen.weight)] == [True, True, False]


def test_requires_grad_is_put_back_after_an_exception() -> None:
    walk = Walk()
    phase = walk.phase("critic", walk.a)

    def fails(batch: fastgan.Batch, step: int) -> dict[str, torch.Tensor]:
        assert not walk.b.weight.requires_grad
        raise KeyError("mine")

    phase.loss = fails
    walk.phases = lambda: [phase]
    walk.stages = lambda: Architecture.stages(walk)
    with pytest.raises(KeyError, match="mine"):
        run(walk)
    assert walk.b.weight.requires_grad and not walk.frozen.weight.requires_grad
    assert walk.training


def test_terms_that_require_grad_are_summed() -> None:
    walk = Walk()
    before = walk.a.weight.item(), walk.frozen.weight.item()
    run(walk, steps=1)
    assert walk.a.weight.item() == pytest.approx(before[0] - 3 * 0.1 * 3.0)  # three updates, d(w + 2w)/dw = 3
    assert walk.frozen.weight.item() == before[1]


def test_schedule_and_after_see_the_stage_s_step() -> None:
    walk, rates, after = Walk(), [], []
    phase = walk.phase("critic", walk.a, schedule=lambda step: {"lr": 10.0 ** -(step + 1)}, repeat=2)
    phase.after = lambda step: after.append((step, torch.is_grad_enabled(), walk.a.weight.item()))
    walk.stages = lambda: [Stage("only", [phase])]
    start = walk.a.weight.item()
    trainer = run(walk, steps=2)
    rates = [start - after[0][2], after[0][2] - after[1][2], after[1][2] - after[2][2], after[2][2] - after[3][2]]
    assert rates == pytest.approx([0.3, 0.3, 0.03, 0.03], rel=1e-4)
    assert [event[:2] for event in after] == [(0, False), (0, False), (1, False), (1, False)]
    assert trainer.optimizers["critic"].param_groups[0]["lr"] == 0.01


def test_fixed_stages_end_the_run() -> None:
    walk = Walk()
    walk.stages = lambda: [Stage("only", [walk.phase("a", walk.a)], steps=3)]
    assert run(walk, steps=100).step == 3


def test_records(tmp_path: Path) -> None:
    run(Walk(), out=tmp_path, log_every=2, steps=5)
    text = (tmp_path / "metrics.jsonl").read_text()
    records = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [(r["step"], r["stage"]) for r in records] == [(2, "one"), (4, "two"), (5, "two")]
    assert set(records[0]) == {
        "step", "stage", "epoch", "images_per_second",
        *(f"{phase}/{loss}" for phase in ("critic", "shared") for loss in ("first", "second", "logged")),
    }  # fmt: skip
    assert records[0]["critic/logged"] == pytest.approx(2 / 5)  # steps 0 0 0 1 1
    assert records[1]["late/logged"] == 0.5 and records[2]["late/logged"] == 2.0
    assert records[0]["images_per_second"] > 0


def test_looking_at_a_run_changes_nothing_in_it() -> None:
    weights = []
    for every in (1, None):
        torch.manual_seed(0)
        model = TinyGAN()
        run(model, steps=6, log_every=every, metric_every=every, metric=lambda gan: ("m", gan.sample(5).mean(), True))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_users_generators_and_modes_are_put_back() -> None:
    torch.manual_seed(9)
    model = TinyGAN().eval()
    state = torch.get_rng_state()
    run(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_averaged_generates_by_the_average_in_eval_mode() -> None:
    trainer = run(TinyGAN())
    model, own = trainer.architecture, trainer.architecture.generator[0].weight.detach().clone()
    model.train()
    model.discriminator.eval()
    with trainer.averaged() as averaged:
        assert averaged is model and not any(m.training for m in model.modules())
        assert not torch.equal(model.generator[0].weight, own) and not torch.is_grad_enabled()
    assert torch.equal(model.generator[0].weight, own)
    assert model.generator.training and not model.discriminator[0].training


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_stops_the_run(tmp_path: Path, value: float) -> None:
    walk = Walk()
    phase = walk.phase("critic", walk.a)
    loss = phase.loss
    phase.loss = lambda batch, step: {**loss(batch, step), "bad": torch.tensor(value if step == 4 else 0.0)}
    walk.stages = lambda: [Stage("only", [phase])]
    message = (
        rf"^loss 'critic/bad' is {value} in steps 4 to 6: training stopped; .*last\.safetensors holds step 3, the last "
        r"good state: go on from it with resume='must' and a smaller learning rate$"
    )
    with pytest.raises(TrainingDiverged, match=message):
        run(walk, out=tmp_path, steps=20, log_every=3, checkpoint_every=3)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [3]


def test_a_bad_weight_never_reaches_a_checkpoint(tmp_path: Path) -> None:
    walk = Walk()
    phase = walk.phase("critic", walk.a)
    phase.after = lambda step: walk.a.weight.fill_(math.nan) if step == 1 else None
    walk.stages = lambda: [Stage("only", [phase])]
    with pytest.raises(
        TrainingDiverged,
        match=r"weight 'a.weight', of phase 'critic', is not finite in steps 1 to 2.* no checkpoint was written: begin",
    ):
        run(walk, out=tmp_path, log_every=None, checkpoint_every=2)
    assert not (tmp_path / "checkpoints").exists()


def test_needs_are_checked_on_the_first_batch() -> None:
    walk = Walk()
    walk.needs = ("image", "text")
    with pytest.raises(
        ValueError, match="Walk needs 'text' in every batch; the data gives only image, label, index: add"
    ):
        run(walk)
    assert walk.events == []


def test_image_ranges(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"the data's images lie in \[0, 255\]; floats take \[-1, 1\]"):
        run(Walk(), [torch.arange(256.0).view(1, 16, 16)] * 2)
    run(Walk(), [torch.rand(1, 4, 4)] * 2)
    assert "if yours are in [0, 1], give 2 * x - 1" in caplog.text


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"loss": torch.ones(())}, "phase 'critic' has no loss that requires grad"),
        ({"loss": torch.ones(3, requires_grad=True)}, r"loss 'loss' of phase 'critic' is shape \(3,\)"),
        ({"loss": 1.0}, "loss 'loss' of phase 'critic' is float"),
    ],
)
def test_bad_losses(terms: dict, message: str) -> None:
    walk = Walk()
    phase = walk.phase("critic", walk.a)
    phase.loss = lambda batch, step: terms
    walk.stages = lambda: [Stage("only", [phase])]
    with pytest.raises((TypeError, ValueError), match=message):
        run(walk)


def test_bad_stages() -> None:
    walk = Walk()
    one = walk.phase("critic", walk.a)
    for stages, message in [
        ([], "gives no stage"),
        ([Stage("x", [one]), Stage("y", [one])], "stage 'x' of Walk has steps=None"),
        ([Stage("x", [one, one])], "two phases of one name"),
    ]:
        walk.stages = lambda stages=stages: stages
        with pytest.raises(ValueError, match=message):
            run(walk)


class Labelled(Walk):
    """Reads labels of three classes."""

    @dataclass(frozen=True)
    class Config(Architecture.Config):
        num_classes: int = option(3, "classes")

    needs: ClassVar[tuple[str, ...]] = ("image", "label")


def test_the_data_s_classes_must_be_the_architecture_s() -> None:
    data = Images(20)
    data.classes = ("a", "b", "c")
    run(Labelled(), data)
    data.classes = ("a", "b")
    with pytest.raises(ValueError, match="the data has 2 classes and Labelled num_classes=3: create it with num_cl"):
        run(Labelled(), data)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_out_of_range_is_named(workers: int) -> None:
    image = torch.zeros(1, 4, 4)
    run(Labelled(), [(image, label) for label in (0, 2, -1, 1)])  # -1: unlabelled
    with pytest.raises(ValueError, match="item 1 of the data has label 3; it takes 0..2, or -1: unlabelled"):
        run(Labelled(), [(image, label) for label in (0, 3)], num_workers=workers)
    drawn_by_class = Labelled()
    drawn_by_class.conditions = ("label",)
    with pytest.raises(ValueError, match="item 1 of the data has no label .-1., by which images are to be drawn"):
        run(drawn_by_class, [(image, label) for label in (0, -1)], num_workers=workers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; it takes a whole number from 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"log_every": 0}, "log_every is 0; it takes a whole number from 1, or None"),
        ({"seed": -1}, "seed is -1"),
        ({"resume": "yes"}, "resume is 'yes'; it takes 'auto', 'never' or 'must'"),
        ({"resume": "must"}, "resume='must' needs out"),
        ({"device": "cuda"}, "this torch sees no GPU"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        options = {"device": "cuda:99"}
        message = "."
    with pytest.raises((ValueError, RuntimeError), match=message):
        run(Walk(), **options)


def test_a_plain_module_is_no_architecture() -> None:
    with pytest.raises(TypeError, match="architecture is a Linear; it takes a fastgan.Architecture"):
        Trainer(nn.Linear(1, 1), Images(), steps=1)


def test_dry_run_writes_nothing_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = TinyGAN()
    before = copy.deepcopy(model.state_dict())
    trainer = run(model, out=tmp_path / "run", dry_run=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.ema.tensors.items())
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    for word in ("3 batches an epoch", "stage first", "stage second", "phase critic: 145 parameters, 3 updates a step"):
        assert word in printed


def test_callbacks_see_the_run_and_keep_state(tmp_path: Path) -> None:
    class Counter(Callback):
        def __init__(self) -> None:
            self.steps, self.calls, self.records = 0, [], []

        def on_start(self, trainer: Trainer) -> None:
            self.calls.append(("start", trainer.step))

        def on_step(self, trainer: Trainer) -> dict | None:
            self.steps += 1
            return {"extra": self.steps} if trainer.due(2) else None

        def on_record(self, trainer: Trainer, record: dict) -> None:
            self.records.append((record["step"], record.get("extra")))

        def on_end(self, trainer: Trainer) -> None:
            self.calls.append(("end", trainer.step))

        def state_dict(self) -> dict:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict) -> None:
            self.steps = state["steps"]

    first, second = Counter(), Counter()
    run(TinyGAN(), out=tmp_path, steps=4, log_every=3, callbacks=[first])
    assert first.records == [(2, 1 + 1), (3, None), (4, 4)]
    run(TinyGAN(), out=tmp_path, steps=6, log_every=3, callbacks=[second])
    assert second.calls == [("start", 4), ("end", 6)] and second.records == [(6, 6)]


def test_fuse_is_applied_to_the_networks_and_changes_no_names() -> None:
    trainer = build("dcgan", None, steps=1)
    plain = build("dcgan", None, steps=1, fuse=False)
    assert list(trainer.architecture.state_dict()) == list(plain.architecture.state_dict())
    kinds = [type(module) for module in trainer.architecture.modules()]
    assert kinds != [type(module) for module in plain.architecture.modules()]
    trainer.fit()
    plain.fit()
    for name, tensor in plain.architecture.state_dict().items():
        torch.testing.assert_close(trainer.architecture.state_dict()[name], tensor, atol=2e-4, rtol=1e-3, msg=name)


def test_ten_lines_of_a_user(tmp_path: Path) -> None:
    class Mine(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.full((1, 16, 16), i / 16 - 1), i % 2

    gan = fastgan.create("dcgan", image_size=16, channels=1, ngf=4, ndf=4)
    fastgan.Trainer(gan, Mine(), steps=2, batch_size=8, out=tmp_path / "run", progress=False).fit()
    assert gan.sample(3).shape == (3, 1, 16, 16)
    assert (tmp_path / "run" / "samples" / "step_000002.png").exists()


def test_fit_again_trains_again() -> None:
    walk = Walk()
    trainer = run(walk, steps=1)
    weight = walk.a.weight.item()
    trainer.fit()
    assert trainer.step == 1 and walk.a.weight.item() == pytest.approx(weight - 0.9)
    assert walk.batches[:4] == walk.batches[4:]  # the same seed, the same batches


def test_an_optimiser_s_state_that_overflowed_is_no_good_state(tmp_path: Path) -> None:
    """A gradient of 1e30 leaves RMSprop's weight finite and its mean square infinite: training would stand still."""
    walk = Walk()
    phase = Phase("critic", walk.a.parameters(), partial(torch.optim.RMSprop, lr=1e-3), None)
    phase.loss = lambda batch, step: {"loss": walk.a.weight.sum() * (1e30 if step == 2 else 1.0)}
    walk.stages = lambda: [Stage("only", [phase])]
    message = "the optimiser's 'square_avg' of weight 'a.weight', of phase 'critic', is not finite at step 3"
    with pytest.raises(TrainingDiverged, match=message) as caught:
        run(walk, out=tmp_path, log_every=None, checkpoint_every=1)
    assert caught.value.saved_step == 2 and walk.a.weight.isfinite().all()


def test_what_is_not_finite_is_no_best(tmp_path: Path) -> None:
    walk = Walk()
    phase = walk.phase("critic", walk.a)
    phase.after = lambda step: walk.a.weight.fill_(math.nan)
    walk.stages = lambda: [Stage("only", [phase])]
    metric = lambda architecture: ("always", 1.0, True)  # noqa: E731 (one that looks at no weight)
    with pytest.raises(TrainingDiverged, match="loss 'critic/first' is nan in steps 1 to 2"):
        run(walk, out=tmp_path, log_every=None, checkpoint_every=None, metric=metric, metric_every=2)
    assert not (tmp_path / "checkpoints").exists()
