"""The trainer: walks an architecture's stages and phases, and knows no GAN.

A step is one walk over the stage's phases; a phase is repeated ``zero_grad, loss, sum, backward, step, after``. The
rest is the run around it: averages, records, checkpoints. What a run does besides training is in callbacks.py, what
lies on disk in run_folder.py, the order of the data in batches.py, what the arguments take in options.py.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from fastgan.architectures.base import Architecture, Phase, Stage
from fastgan.data.batch import Batch
from fastgan.ops import _conv_choices
from fastgan.training import distributed, graphs, rng
from fastgan.training.augment import DiscriminatorAugment
from fastgan.training.batches import BatchStream
from fastgan.training.callbacks import BestMetric, Callback, Metric, MetricsFile, Progress, SampleGrid
from fastgan.training.checkpoint import CheckpointError, load_networks
from fastgan.training.ema import ExponentialMovingAverage
from fastgan.training.meter import Meter
from fastgan.training.options import (
    check_batch,
    check_classes,
    check_count,
    check_stages,
    describe_architecture,
    describe_data,
    environment,
    load_data,
    name_of,
)
from fastgan.training.precision import Precision, choose_precision
from fastgan.training.run_folder import RunFolder
from fastgan.training.update import only, set_options

__all__ = ["Trainer", "TrainingDiverged"]


class TrainingDiverged(RuntimeError):
    """A loss, weight or gradient is NaN or infinite; the message names it, its phase and step, and the last good state.

    ``saved_step``: of that state, None where no checkpoint was written.
    """

    def __init__(self, message: str, saved_step: int | None) -> None:
        super().__init__(message)
        self.saved_step = saved_step


class Trainer:
    """Trains ``architecture`` on ``data``; ``fit()`` runs it.

    Parameters
    ----------
    architecture
        Any ``fastgan.Architecture``; trained in place.
    data
        What ``fastgan.data.load`` takes: a name, a folder or zip of images, a data set of torchvision or Hugging Face
        ``datasets``, or any map-style data set (what it offers: ``fastgan.training.batches``).
    steps
        Length of the whole run, over all stages. A finished run is extended by asking for more.
    batch_size
        Default: ``architecture.defaults["batch_size"]``. Of the joint batch where several processes train (torchrun).
    seed
        Of everything random in the run, 0 or more. The weights are the architecture's: seed torch before creating it.
    device
        ``"auto"``: the GPU where there is one; or what ``torch.device`` takes.
    out
        Run folder; None trains in memory and writes nothing.
    fuse
        Pass each network through ``fastgan.fuse`` first: same parameters, faster.
    channels_last
        Keep the weights of convolutions in that memory format: the same values, faster on CPUs and tensor cores.
    ema_decay
        Of the averaged generators that samples and metrics use; 0 switches averaging off. Short runs average over less.
    log_every, sample_every, metric_every, checkpoint_every
        Steps between records, sample grids, measurements, checkpoints; None: never. All happen at the last step too.
    metric
        ``metric(architecture) -> (name, value, lower_is_better)``; the best checkpoint is kept by it. By name:
        ``fastgan.training.measuring.RunMetric(fastgan.metrics.Measure(data, ["fid", "kid"]))``.
    num_workers
        Processes that read data ahead; the batches are the same with any number.
    resume
        ``"auto"``: go on with the run in ``out``, if any; ``"must"``: there has to be one, and learning rates and
        precision may be others than its own; ``"never"``: there must not be one.
    callbacks
        More of ``fastgan.training.callbacks.Callback``, called after the built-in ones; all of them in rank 0 alone.
    skip_broken
        For ``data`` by name or path: leave out images that cannot be read, instead of refusing the data.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"`` (with scaled losses) for the networks; ``"auto"``: bfloat16 on
        GPUs that compute in it, else float32 (``fastgan.training.precision``).
    deterministic
        On CUDA: deterministic algorithms only, so that a resumed run is bit-exact there too. The CPU always is.
    augment
        What the discriminator sees, real and generated, is transformed at random, which lets few images suffice:
        ``"diffaugment"`` (always) or ``"ada"`` (as often as its overfitting asks for), or a module on pictures, such as
        ``fastgan.nn.DiffAugment("translation,cutout")``. A gradient penalty is then slower: training/augment.py.
    cuda_graph
        On CUDA: record each phase's update as a CUDA graph and replay it, where the host is what training waits for.
        What cannot be recorded runs eagerly; ``updates.report`` says of every phase which, and why. Off by default: not
        verified on hardware yet (benchmarks/graph_check.py does that).
    progress
        Show a progress bar (plain lines where the output is no terminal).
    sync_bn
        Where several processes train: BatchNorm over the joint batch instead of each process's part.
    dry_run
        ``fit()`` walks one step of every stage, prints what it found, writes nothing and puts the weights back.

    Raises
    ------
    TypeError, ValueError
        An argument, or the data, is not what it takes; one sentence says which and why.
    CheckpointError
        From ``fit``: the run folder cannot be written, holds a run with other options, or no readable checkpoint.
    TrainingDiverged
        From ``fit``: a loss, weight or gradient is NaN or infinite. Looked for at every record and checkpoint, so that
        no step waits for the device; what is not finite is never written over a checkpoint.
    RankLost
        From ``fit``: another process of the run is gone.
    """

    def __init__(
        self,
        architecture: Architecture,
        data: Any,
        *,
        steps: int,
        batch_size: int | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        out: str | Path | None = None,
        fuse: bool = True,
        channels_last: bool = True,
        ema_decay: float = 0.999,
        log_every: int | None = 50,
        sample_every: int | None = 500,
        metric_every: int | None = 500,
        checkpoint_every: int | None = 500,
        metric: Metric | None = None,
        num_workers: int = 0,
        resume: str = "auto",
        callbacks: Iterable[Callback] = (),
        skip_broken: bool = False,
        precision: str = "auto",
        deterministic: bool = False,
        augment: str | nn.Module | None = None,
        cuda_graph: bool = False,
        progress: bool = True,
        sync_bn: bool = True,
        dry_run: bool = False,
    ) -> None:
        if not isinstance(architecture, Architecture):
            raise TypeError(f"architecture is a {type(architecture).__name__}; it takes a fastgan.Architecture")
        if resume not in ("auto", "never", "must"):
            raise ValueError(f"resume is {resume!r}; it takes 'auto', 'never' or 'must'")
        if resume == "must" and out is None:
            raise ValueError("resume='must' needs out: the folder of the run to go on with")
        batch_size = architecture.defaults.get("batch_size", 64) if batch_size is None else batch_size
        every = {
            "log_every": log_every,
            "sample_every": sample_every,
            "metric_every": metric_every,
            "checkpoint_every": checkpoint_every,
        }
        for name, value in {"steps": steps, "batch_size": batch_size, **every}.items():
            check_count(name, value, 1, optional=name in every)
        check_count("seed", seed, 0)
        check_count("num_workers", num_workers, 0)

        self.architecture = architecture
        self.processes = distributed.join(device)
        self.device = self.processes.device
        self.steps = steps
        self.seed = seed
        self.resume = resume
        self.deterministic = deterministic
        self.cuda_graph = cuda_graph
        self._precision_name = choose_precision(precision, self.device)
        self.augment = None if augment is None else DiscriminatorAugment(architecture, augment, self.device)
        self.dry_run = dry_run
        self.log_every = log_every
        self.checkpoint_every = checkpoint_every
        if self.augment is not None:
            self.augment.rows = self.processes.rows
        dataset = load_data(data, architecture, skip_broken)
        self.batches = BatchStream(
            dataset,
            batch_size,
            seed=seed,
            device=self.device,
            num_workers=num_workers,
            num_classes=check_classes(dataset, architecture),
            unlabelled="label" not in architecture.conditions,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        self._folder = None if out is None or dry_run else RunFolder(out)
        self.run = self._folder if self.processes.first else None  # what writes
        callbacks = [
            *([BestMetric(metric, metric_every)] if metric is not None else []),
            SampleGrid(sample_every),
            MetricsFile(),
            *([Progress()] if progress else []),
            *callbacks,
        ]
        self.callbacks: list[Callback] = callbacks if self.processes.first else []

        architecture.to(self.device)
        if channels_last:
            architecture.to(memory_format=torch.channels_last)
        if fuse:
            from fastgan.nn.fuse import fuse as fuse_network

            for network in architecture.children():
                fuse_network(network)
        if sync_bn and self.processes.world > 1:
            from fastgan.nn.sync_bn import synchronise

            synchronise(architecture)
        self.ema = ExponentialMovingAverage(architecture, ema_decay)
        self.config = {
            "architecture": describe_architecture(architecture),
            "data": describe_data(dataset),
            "trainer": {
                "steps": steps,
                "batch_size": batch_size,
                "seed": seed,
                "device": self.device.type,
                "fuse": fuse,
                "channels_last": channels_last,
                "ema_decay": ema_decay,
                **every,
                "metric": None if metric is None else getattr(metric, "name", None) or name_of(metric),
                "num_workers": num_workers,
                "precision": self._precision_name,
                "deterministic": deterministic,
                "cuda_graph": cuda_graph,
                "augment": augment if augment is None or isinstance(augment, str) else repr(augment),
                "sync_bn": sync_bn,
            },
            "environment": {**environment(self.device), "processes": self.processes.world},
        }

        self._reset()

    def _reset(self) -> None:
        """Where a run begins; what a checkpoint holds besides networks and averages."""
        self.step = 0  # steps done since the run began
        self.stage_number = 0
        self.stage_step = 0  # steps done in this stage
        self.batches.position = 0
        if self.augment is not None:
            self.augment.reset()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._meter = Meter()
        self.precision = Precision(self._precision_name, self.device)
        self.updates = self.processes.updates(self._meter, self.ema, self.precision)
        self._images = 0  # since the last record
        self._clock = 0.0  # when the interval since the last record began
        self._last = False  # whether this is the run's last step
        self._checked = False  # whether a batch was looked at
        self._saved_step: int | None = None
        self._finite_step = 0  # the last step at which losses and weights were looked at

    # -- the loop ------------------------------------------------------------------------------------------------------
    def fit(self) -> Architecture:
        """Train until ``steps``; returns the architecture (``averaged()`` gives its averaged generators)."""
        seed = self.processes.seed(self.seed)
        augmented = self.augment.installed() if self.augment is not None else nullcontext()
        with (
            self.processes.supervised(self._where),
            rng.isolated(seed, self.device),
            _training(self.architecture),
            _algorithms(self.deterministic),
            augmented,
        ):
            averages = {f"average of {name}": tensor for name, tensor in self.ema.tensors.items()}
            self.processes.begin(self._common(), {**self.architecture.state_dict(), **averages})
            if self.dry_run:
                self._walk_once()
                return self.architecture
            try:
                state = self._open() if self._folder is not None else None
                self._reset()
                if state is not None:
                    self._load(state)
                if self.run is not None:
                    self.run.begin(self.config, self.step)
                self._train(check_stages(self.architecture), state)
            finally:
                self.batches.close()
                if self.run is not None:
                    self.run.close()
        return self.architecture

    def _open(self) -> dict[str, Any] | None:
        """The state to go on from, which rank 0 reads."""
        return self.processes.from_first(lambda: self._folder.open(self.config, self.resume))

    def _common(self) -> dict[str, Any]:
        """The options that every process has to be started with."""
        data = {k: v for k, v in self.config["data"].items() if k not in ("description", "spec")}  # which hold paths
        return {name: self.config[name] for name in ("architecture", "trainer")} | {"data": data}

    def _where(self) -> str:
        """The present step and what there is to go on from, for the message about a lost process."""
        kept = "no checkpoint was written"
        if self._saved_step is not None:
            kept = f"{self._folder.checkpoint('last')} holds step {self._saved_step}; the same command goes on from it"
        return f"in step {self.step + 1}; {kept}"

    def _train(self, stages: list[Stage], state: Mapping[str, Any] | None) -> None:
        if self.cuda_graph and self.processes.world > 1:
            self.updates.report["all"] = "eager: several processes train, and no graph holds what they exchange"
        elif self.cuda_graph:
            self.updates = graphs.make_updates(
                self.architecture, self._meter, self.ema, self.precision, device=self.device
            )
        with self.updates.session(self.batches):
            with self.processes.by_itself():
                for callback in self.callbacks:
                    callback.on_start(self)
            try:
                self._walk(stages, state)
            finally:
                with self.processes.by_itself():
                    for callback in self.callbacks:
                        callback.on_end(self)

    def _walk(self, stages: list[Stage], state: Mapping[str, Any] | None) -> None:
        """All stages, from where ``state`` is (None: from the beginning)."""
        known = all(stage.steps is not None for stage in stages)
        total = min(self.steps, sum(stage.steps for stage in stages)) if known else self.steps
        self._clock = time.perf_counter()
        for number in range(self.stage_number, len(stages)):
            stage = stages[number]
            if number != self.stage_number:
                self.stage_number, self.stage_step = number, 0
            self._make_optimizers(stage)
            if state is not None:
                self._load_optimizers(state)
                self.processes.load_rng(state)  # last of all: what came before may have drawn numbers
                state = None
            self.updates.begin(stage, self.optimizers)
            while self.step < total and (stage.steps is None or self.stage_step < stage.steps):
                self._train_step(stage)
                self._last = self.step == total
                self._look(stage)
            if self.step >= total:
                break

    def _train_step(self, stage: Stage) -> None:
        """One walk over the phases. A step begins without a batch, so that it depends on no step before it."""
        batch = None
        for phase in stage.phases:
            batch = self._train_phase(phase, batch)
        self.updates.average()
        if self.augment is not None:
            self.augment.check()
        self.step += 1
        self.stage_step += 1

    def _train_phase(self, phase: Phase, batch: Batch | None) -> Batch | None:
        optimizer = self.optimizers[phase.name]
        with only(self.architecture, phase.parameters):
            for _ in range(phase.repeats(self.stage_step)):
                if phase.fresh_batch or batch is None:
                    batch = self._next_batch()
                if self.augment is not None:
                    self.augment.batch = batch
                set_options(phase, optimizer, self.stage_step)
                self.updates.update(phase, optimizer, batch, self.stage_step)
        return batch

    def _next_batch(self) -> Batch:
        batch = self.batches.next()
        if not self._checked:
            check_batch(batch, self.architecture)
            self._checked = True
        self._images += len(batch) * self.processes.world
        return batch

    def _make_optimizers(self, stage: Stage) -> None:
        self.optimizers = {phase.name: phase.optimizer(phase.parameters) for phase in stage.phases}

    def _walk_once(self) -> None:
        """The dry run: one step of every stage, then everything as it was."""
        before = copy.deepcopy((self.architecture.state_dict(), self.ema.state_dict()))
        say, name = print if self.processes.first else lambda text: None, name_of(self.architecture)
        say(f"{name}: {self.batches.size} items, {self.batches.batches_per_epoch} batches an epoch")
        for stage in check_stages(self.architecture):
            self.stage_step = 0
            self._make_optimizers(stage)
            started = time.perf_counter()
            self._train_step(stage)
            losses = self._losses()
            say(f"stage {stage.name}: one step took {time.perf_counter() - started:.3f} s on {self.device}")
            for phase in stage.phases:
                count = sum(parameter.numel() for parameter in phase.parameters)
                values = "  ".join(f"{k} {v:.4g}" for k, v in losses.items() if k.startswith(f"{phase.name}/"))
                say(f"  phase {phase.name}: {count:,} parameters, {phase.repeats(0)} updates a step  {values}")
        self.architecture.load_state_dict(before[0])
        self.ema.load_state_dict(before[1])
        self.architecture.zero_grad(set_to_none=True)
        self.batches.close()
        self._reset()

    # -- looking at the run --------------------------------------------------------------------------------------------
    def due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps happens now; the last step counts."""
        return every is not None and (self._last or self.step % every == 0)

    @contextmanager
    def averaged(self) -> Iterator[Architecture]:
        """Inside, the architecture generates with its averaged generators, in eval mode and without gradients."""
        modes = [(module, module.training) for module in self.architecture.modules()]
        with self.ema.applied(), torch.no_grad():
            self.architecture.eval()
            try:
                yield self.architecture
            finally:
                for module, mode in modes:
                    module.training = mode

    def _look(self, stage: Stage) -> None:
        """Everything that follows a step: record, callbacks, checkpoint. Its time is not counted as training."""
        record: dict[str, Any] = {}
        if logged := self.due(self.log_every):
            losses = self._losses()  # waits for the device, so that the time below is that of finished work
            seconds = time.perf_counter() - self._clock
            record = {**losses, **self.precision.record(), "images_per_second": self._images / max(seconds, 1e-9)}
            if self.augment is not None:
                record |= self.augment.record()
            self._images = 0
        started = time.perf_counter()
        with self.processes.by_itself():
            for callback in self.callbacks:
                record.update(callback.on_step(self) or {})
            if record:
                record = {"step": self.step, "stage": stage.name, "epoch": round(self.batches.epoch, 6), **record}
                for callback in self.callbacks:
                    callback.on_record(self, record)
        if self._folder is not None and self.due(self.checkpoint_every):
            self.save()
        self._clock = time.perf_counter() if logged else self._clock + time.perf_counter() - started

    def _losses(self) -> dict[str, float]:
        """Means since the last record, by "phase/loss"; begins a new interval."""
        losses = self.processes.mean(self._meter.means())
        self._stop_unless_finite(losses)
        self._meter.reset()
        return losses

    def _stop_unless_finite(self, losses: Mapping[str, float]) -> None:
        """Raise TrainingDiverged at a loss, weight or optimiser's state that is not finite; waits for the device."""
        for name, value in losses.items():
            if not math.isfinite(value):
                self._stop(f"loss {name!r} is {value}")
        for phase in self.precision.exhausted():
            self._stop(f"the gradient of phase {phase!r} overflows float16 at any scale")
        for phase, optimizer in self.optimizers.items():
            names = {parameter: name for name, parameter in self.architecture.named_parameters()}
            held = {
                f"weight {names.get(p, 'of no name')!r}": p for group in optimizer.param_groups for p in group["params"]
            }
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    if isinstance(value, torch.Tensor) and value.is_floating_point():
                        held[f"the optimiser's {key!r} of weight {names.get(parameter, 'of no name')!r}"] = value
            if (bad := _not_finite(held)) is not None:
                self._stop(f"{bad}, of phase {phase!r}, is not finite")
        self._finite_step = self.step

    def _stop(self, what: str) -> NoReturn:
        first = self._finite_step + 1
        when = f"at step {self.step}" if first >= self.step else f"in steps {first} to {self.step}"
        if self._saved_step is None:
            kept = "no checkpoint was written: begin anew with a smaller learning rate"
        else:
            kept = (
                f"{self._folder.checkpoint('last')} holds step {self._saved_step}, the last good state: go on from it "
                "with resume='must' and a smaller learning rate"
            )
        if self.precision.name != "float32":
            kept += ", or precision='float32'"
        raise TrainingDiverged(f"{what} {when}: training stopped; {kept}", self._saved_step)

    # -- state ---------------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write the checkpoint that a run goes on from; all processes call it, rank 0 writes."""
        self._stop_unless_finite(self.processes.mean(self._meter.means()))
        own = self.processes.state(self.architecture, self._meter)
        if self.run is not None:
            self.run.save("last", self._state(own))
        self._saved_step = self.step

    def _state(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds; ``own``: the generators, and what is each process's own."""
        return {
            **self._networks(),
            "stage": self.stage_number,
            "stage_step": self.stage_step,
            "position": self.batches.position,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "meter": self._meter.state_dict(),
            "precision": self.precision.state_dict(),
            **own,
            "augment": self.augment.state_dict() if self.augment is not None else None,
            "callbacks": {name: callback.state_dict() for name, callback in self._named_callbacks()},
            "convolution_choices": _conv_choices.state(self.device),
        }

    def save_best(self, metric: str, value: float) -> None:
        """Write the networks as the best so far; nothing where the run is in memory."""
        if self.run is not None:
            self._stop_unless_finite(self._meter.means())
            self.run.save("best", {**self._networks(), "metric": {"name": metric, "value": value}})

    def _networks(self) -> dict[str, Any]:
        ema = self.ema.state_dict()
        return {"config": self.config, "step": self.step, "model": self.architecture.state_dict(), "ema": ema}

    def _load(self, state: Mapping[str, Any]) -> None:
        load_networks(self.architecture, state["model"], self._folder.path)
        if set(state["ema"]["tensors"]) != set(self.ema.tensors):
            raise CheckpointError(f"{self._folder.path} averages other generators than {self.architecture.generators}")
        self.ema.load_state_dict(state["ema"])
        self.step = self._saved_step = self._finite_step = state["step"]
        self.stage_number, self.stage_step = state["stage"], state["stage_step"]
        self.batches.position = state["position"]
        self._meter.load_state_dict(state["meter"], self.device)
        self.processes.load(state, self.architecture, self._meter)
        self.precision.load_state_dict(state["precision"])
        _conv_choices.load_state(state.get("convolution_choices", {}), self.device)
        if self.augment is not None:
            self.augment.load_state_dict(state["augment"])
        for name, callback in self._named_callbacks():
            if name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][name])

    def _load_optimizers(self, state: Mapping[str, Any]) -> None:
        other_rates = state["config"]["architecture"] != self.config["architecture"]  # which resume="must" lets pass
        for name, optimizer in self.optimizers.items():
            rates = [group.get("lr") for group in optimizer.param_groups]
            try:
                optimizer.load_state_dict(graphs.uncaptured(state["optimizers"][name], optimizer))
            except (KeyError, ValueError) as error:
                raise CheckpointError(
                    f"{self._folder.path}: the state of phase {name!r}'s optimiser does not fit ({error}): the code of "
                    "the architecture changed since; go on with the code of then, or begin anew in another folder"
                ) from error
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                if other_rates and rate is not None:
                    group["lr"] = rate
            for parameter, values in optimizer.state.items():
                for key, value in values.items():  # the file is contiguous; kernels want the parameter's memory format
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                        values[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)

    def _named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """Callbacks by class name, numbered where a class comes twice."""
        seen: dict[str, int] = {}
        for callback in self.callbacks:
            name = type(callback).__name__
            seen[name] = seen.get(name, 0) + 1
            yield (name if seen[name] == 1 else f"{name} {seen[name]}"), callback


def _not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first that holds a NaN or infinity. One value waits for the device where there is none."""
    if math.isfinite(torch.nn.utils.get_total_norm(list(tensors.values()), 1.0)):
        return None
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


# -- around a run ------------------------------------------------------------------------------------------------------


@contextmanager
def _training(architecture: nn.Module) -> Iterator[None]:
    was_training = architecture.training
    architecture.train()
    try:
        yield
    finally:
        architecture.train(was_training)


@contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Torch's deterministic algorithms inside, the user's setting again afterwards."""
    if not deterministic:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it first starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        with _conv_choices.fixed():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
