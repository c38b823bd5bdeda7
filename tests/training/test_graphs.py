"""Graphed runs against eager ones, on an emulation of CUDA graphs (cpu_graphs.py): equal to the bit, or eager with a
reason and equal to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from architectures import stubs as contract
from torch import nn

import fastgan
from fastgan.architectures.base import Architecture, Phase, Stage
from fastgan.data.batch import Batch
from fastgan.training import graphs
from fastgan.training.trainer import Trainer

from .cpu_graphs import CpuRecorder
from .stubs import Images, TinyGAN, build

ADAM = partial(torch.optim.Adam, lr=1e-2, fused=True)


class Pair(Architecture):
    """Two small networks; ``critic_loss`` and ``after`` are what a test makes of them."""

    generators: ClassVar[tuple[str, ...]] = ("generator",)
    defaults: ClassVar[dict] = {"batch_size": 4}

    def __init__(self) -> None:
        super().__init__(self.Config(image_size=4, channels=1))
        torch.manual_seed(2)
        self.generator, self.critic = nn.Linear(3, 16), nn.Linear(16, 1)
        self.register_buffer("memory", torch.zeros(16))
        self.optimizer: Callable = ADAM
        self.schedule = None
        self.after = None

    def phases(self) -> list[Phase]:
        critic = Phase("critic", self.critic.parameters(), self.optimizer, lambda *a: self.critic_loss(*a))
        critic.schedule, critic.after = self.schedule, self.after
        return [critic, Phase("generator", self.generator.parameters(), ADAM, self.generator_loss, fresh_batch=False)]

    def critic_loss(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        fake = self.generator(torch.randn(len(batch), 3)).detach()
        return {"wasserstein": self.critic(fake).mean() - self.critic(batch.image.flatten(1)).mean()}

    def generator_loss(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        return {"wasserstein": -self.critic(self.generator(torch.randn(len(batch), 3))).mean()}


def fit(architecture: Architecture, data: object = None, **options: object) -> Trainer:
    options = {"steps": 8, "progress": False, "cuda_graph": True, **options}
    trainer = Trainer(architecture, data or Images(20), **options)
    trainer.fit()
    return trainer


def assert_equal(a: Trainer, b: Trainer, *, optimizers: bool = True) -> None:
    """The same weights, buffers, averages, optimiser states and means, to the bit."""
    states = []
    for trainer in (a, b):
        state = {**trainer.architecture.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.tensors.items()}}
        for name, optimizer in trainer.optimizers.items():
            for i, values in enumerate(optimizer.state.values()):
                state |= {f"{name}.{i}.{k}": v for k, v in values.items() if isinstance(v, torch.Tensor) and optimizers}
        states.append(state)
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert a._meter.means() == b._meter.means() and a._meter.counts == b._meter.counts
    assert (a.step, a.batches.position, a.ema.updates) == (b.step, b.batches.position, b.ema.updates)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Trainer]], Trainer]:
    """Runs with everything that ``cuda_graph`` changes but the recordings."""

    def run(make: Callable[[], Trainer]) -> Trainer:
        with monkeypatch.context() as patch:
            patch.setattr(graphs, "WARM_UP", 10**9)
            return make()

    return run


@pytest.mark.parametrize("name", ["tiny", *fastgan.list_architectures()])
def test_a_graphed_run_equals_an_eager_one(name: str, recorder: CpuRecorder, eager: Callable) -> None:
    def run(**options: object) -> Trainer:
        trainer = build(name, None, steps=14, log_every=4, metric_every=3, **options)
        trainer.fit()
        return trainer

    graphed = run(cuda_graph=True)
    replays = recorder.replays
    assert_equal(graphed, eager(lambda: run(cuda_graph=True)))
    assert recorder.replays == replays > 0
    report = graphed.updates.report
    if name in ("gan", "cgan"):  # momentum rises at every step
        changed = "eager: lr and momentum of its optimiser changed before the latest update"
        assert report == {"train/discriminator": changed, "train/generator": changed, "train/averages": "recorded"}
    else:
        assert set(report.values()) == {"recorded"}
    if name in ("gan", "dcgan", "wgan_gp"):  # their optimisers round alike, capturable or not
        assert_equal(graphed, run(), optimizers=False)


class Fields(Images):
    """Batches with all that the contract's hardest users read."""

    def __init__(self, needs: tuple[str, ...], channels: int) -> None:
        super().__init__(20, 16, channels)
        generator = torch.Generator().manual_seed(3)
        self.needs, self.text = needs, torch.randn(20, 5, generator=generator)

    def __getitem__(self, i: int) -> dict[str, object]:
        fields = {"image": self.images[i], "source": self.images[-i], "label": i % 4 - 1, "text": self.text[i]}
        return {name: fields[name] for name in self.needs}


@pytest.mark.parametrize("cls", [contract.SimGAN, contract.StackGAN, contract.VAT], ids=lambda cls: cls.__name__)
def test_the_contracts_hardest_users(cls: type[Architecture], recorder: CpuRecorder, eager: Callable) -> None:
    def run() -> Trainer:
        torch.manual_seed(1)
        return fit(cls(cls.Config()), Fields(cls.needs, cls.Config().channels), steps=12, batch_size=4)

    graphed = run()
    assert_equal(graphed, eager(run))
    last = graphed.architecture.stages()[-1].name
    assert {how for name, how in graphed.updates.report.items() if name.startswith(last)} == {"recorded"}


# -- what cannot be recorded -------------------------------------------------------------------------------------------


class CountsInPython(torch.optim.SGD):
    """Keeps a number of Python's in its state, as optimisers without ``capturable`` do."""

    def step(self, closure: object = None) -> None:
        for state in [self.state[p] for group in self.param_groups for p in group["params"]]:
            state["updates"] = state.get("updates", 0) + 1
        super().step(closure)


def reads_back(pair: Pair, loss: Callable) -> None:
    pair.critic_loss = lambda batch, step: {
        **(terms := loss(batch, step)),
        "x": torch.tensor(sum(terms.values()).item()),
    }


def reads_the_step(pair: Pair, loss: Callable) -> None:
    pair.critic_loss = lambda batch, step: {k: v * (1.0 + step / 10) for k, v in loss(batch, step).items()}


def reads_the_step_after(pair: Pair, loss: Callable) -> None:
    pair.after = lambda step: pair.memory.add_(1) if step % 2 else None


def draws_on_the_cpu(pair: Pair, loss: Callable) -> None:
    pair.critic_loss = lambda batch, step: {k: v * float(np.random.rand()) for k, v in loss(batch, step).items()}


def rebinds_a_buffer(pair: Pair, loss: Callable) -> None:
    calls: list[int] = []

    def after(step: int) -> None:
        calls.append(step)
        if len(calls) == 4:  # the recording
            pair.memory = pair.memory.clone()
        pair.memory.add_(1)

    pair.after = after


def has_a_hook(pair: Pair, loss: Callable) -> None:
    def count(*_: object) -> None:
        pair.memory.add_(1)

    pair.critic.register_forward_hook(count)


def has_a_gradient_hook(pair: Pair, loss: Callable) -> None:
    pair.critic.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))


def counts_in_python(pair: Pair, loss: Callable) -> None:
    pair.optimizer = partial(CountsInPython, lr=1e-2)


def changes_an_option(pair: Pair, loss: Callable) -> None:
    pair.optimizer = partial(torch.optim.SGD, lr=1e-2)
    pair.schedule = lambda step: {"lr": 1e-2 / (1 + step)}


def names_a_new_loss(pair: Pair, loss: Callable) -> None:
    def renamed(batch: Batch, step: int) -> dict[str, torch.Tensor]:
        pair.calls = getattr(pair, "calls", 0) + 1
        return {f"call {pair.calls}" if pair.calls == 4 else "wasserstein": loss(batch, step)["wasserstein"]}

    pair.critic_loss = renamed


REASONS = {
    reads_back: "it waits for the device",
    reads_the_step: "its loss, or what follows the update, depends on the step",
    reads_the_step_after: "its loss, or what follows the update, depends on the step",
    draws_on_the_cpu: "it draws random numbers on the CPU",
    rebinds_a_buffer: "it binds something new to 'memory' instead of writing into the tensor there",
    has_a_hook: "critic has a hook, which a replay would not call",
    has_a_gradient_hook: "the parameter critic.weight has a hook, which a replay would not call",
    counts_in_python: "it binds something new to 'updates', 'updates' instead of writing into the tensor there",
    changes_an_option: "lr of its optimiser changed before the latest update",
}


@pytest.mark.parametrize("spoil", REASONS, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_recorded_runs_eagerly_and_says_why(
    spoil: Callable, recorder: CpuRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    def run(**options: object) -> Trainer:
        pair = Pair()
        spoil(pair, pair.critic_loss)
        return fit(pair, **options)

    graphed = run()
    assert graphed.updates.report["train/critic"] == f"eager: {REASONS[spoil]}"
    assert graphed.updates.report["train/averages"] == "recorded"
    if "hook" not in REASONS[spoil]:  # the generator's update calls the critic too
        assert graphed.updates.report["train/generator"] == "recorded"
        assert len(caplog.messages) <= 1
    assert_equal(graphed, run(cuda_graph=False))


def test_a_loss_that_appears_in_a_recording(recorder: CpuRecorder) -> None:
    pair = Pair()
    names_a_new_loss(pair, pair.critic_loss)
    trainer = fit(pair, log_every=None)
    assert "'critic/call 4'" in trainer.updates.report["train/critic"]


def test_a_capture_that_fails_leaves_no_trace(recorder: CpuRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting that a rehearsal does not see, in the middle of a capture: CUDA's error is not the first of the chain."""

    def fails(function: Callable) -> None:
        try:
            CpuRecorder.record(recorder, function)
            raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(recorder, "record", fails)
    graphed = fit(Pair())
    reason = "eager: RuntimeError: operation not permitted when stream is capturing"
    assert set(graphed.updates.report.values()) == {reason}
    assert_equal(graphed, fit(Pair(), cuda_graph=False))


def test_an_error_of_the_users_own_is_raised(recorder: CpuRecorder) -> None:
    pair, loss = Pair(), Pair.critic_loss
    calls: list[int] = []

    def fails(batch: Batch, step: int) -> dict[str, torch.Tensor]:
        calls.append(1)
        return loss(pair, batch, step) if len(calls) <= 2 + 1 else {}[0]

    pair.critic_loss = fails
    with pytest.raises(KeyError):
        fit(pair)
    assert all(p.requires_grad for p in pair.parameters())


def test_without_a_gpu_all_is_eager_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    trainer = fit(Pair(), device="cpu")
    assert trainer.updates.report == {"all": "eager: the device is cpu, and CUDA graphs need a GPU"}
    assert caplog.messages == ["cuda_graph: eager: the device is cpu, and CUDA graphs need a GPU"]
    assert_equal(trainer, fit(Pair(), cuda_graph=False))


# -- what changes between replays --------------------------------------------------------------------------------------


class Between(fastgan.training.callbacks.Callback):
    """Does something to the trainer after step 6, when the graphs are in use."""

    def __init__(self, do: Callable[[Trainer], None]) -> None:
        self.do = do

    def on_step(self, trainer: Trainer) -> None:
        if trainer.step == 6:
            self.do(trainer)


def sets_an_option(trainer: Trainer) -> None:
    trainer.optimizers["critic"].param_groups[0]["lr"] = 1e-3


def moves_a_parameter(trainer: Trainer) -> None:
    trainer.architecture.critic.weight.data = trainer.architecture.critic.weight.data.clone()


def loads_an_optimiser(trainer: Trainer) -> None:
    state = copy.deepcopy(trainer.optimizers["critic"].state_dict())
    trainer.optimizers["critic"].load_state_dict(state)


def freezes(trainer: Trainer) -> None:
    trainer.architecture.critic.bias.requires_grad_(False)


@pytest.mark.parametrize("do", [sets_an_option, moves_a_parameter, loads_an_optimiser, freezes])
def test_what_a_callback_changes_is_recorded_anew(do: Callable, recorder: CpuRecorder, eager: Callable) -> None:
    def run() -> Trainer:
        return fit(Pair(), steps=12, callbacks=[Between(do)])

    graphed = run()
    assert recorder.recordings > 3  # critic, generator and averages at least once, something twice
    assert set(graphed.updates.report.values()) == {"recorded"}
    assert_equal(graphed, eager(run))


def test_stages_record_their_own_graphs(recorder: CpuRecorder) -> None:
    pair = Pair()
    pair.stages = lambda: [Stage("one", pair.phases(), steps=6), Stage("two", pair.phases())]
    trainer = fit(pair, steps=12)
    assert len(trainer.updates.report) == 6 == recorder.recordings
    assert all(p.grad is None for p in pair.parameters())  # they lay in the graphs' memory


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "wgan"])
def test_resumed_runs_are_recorded_anew_and_equal(name: str, tmp_path: Path, recorder: CpuRecorder) -> None:
    whole = build(name, str(tmp_path / "whole"), steps=13, cuda_graph=True)
    whole.fit()
    build(name, str(tmp_path / "parts"), steps=5, cuda_graph=True).fit()
    rest = build(name, str(tmp_path / "parts"), steps=13, cuda_graph=True)
    rest.fit()
    assert_equal(rest, whole)


@pytest.mark.parametrize("first", [True, False])
def test_a_run_may_go_on_with_or_without_graphs(first: bool, tmp_path: Path, recorder: CpuRecorder) -> None:
    def parts(name: str) -> Trainer:
        build(name, str(tmp_path / name), steps=3, cuda_graph=first).fit()
        rest = build(name, str(tmp_path / name), steps=6, cuda_graph=not first)
        rest.fit()
        return rest

    group = parts("tiny").optimizers["critic"].param_groups[0]
    assert group["capturable"] is not first and isinstance(group["lr"], torch.Tensor) is not first
    whole = build("dcgan", None, steps=6)
    whole.fit()
    assert_equal(parts("dcgan"), whole)


def test_the_averages_two_halves_are_the_update() -> None:
    torch.manual_seed(0)
    one, other = (fastgan.training.ema.ExponentialMovingAverage(gan) for gan in (TinyGAN(), TinyGAN()))
    other._architecture.load_state_dict(one._architecture.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(4):
        for ema in (one, other):
            torch.manual_seed(1)
            for parameter in ema._architecture.parameters():
                parameter.data += torch.randn_like(parameter)
        one.update()
        other.advance()
        other.apply()
    assert one.updates == other.updates
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
