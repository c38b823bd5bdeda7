"""`fastgan train NAME`: train an architecture on a data set and keep a run folder."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from fastgan import registry
from fastgan.architectures.base import Architecture, Preset
from fastgan.data import ImageDataset
from fastgan.metrics import CollapseDetector, Measure
from fastgan.metrics.collapse import CELLS
from fastgan.training.callbacks import Callback, GradientAlarm
from fastgan.training.measuring import CollapseWatch, RunMetric
from fastgan.training.preset import FROM_DATA, get_preset, prepare
from fastgan.training.tensorboard import TensorBoard
from fastgan.training.trainer import Trainer, TrainingDiverged

USAGE = "usage: fastgan train NAME [options]   (fastgan train NAME --help lists them, the model's own included)"


@dataclass
class TrainOptions:
    """Options of a training run; those of the architecture are the ones that begin with --model."""

    preset: str | None = None
    """a small run by name, which decides the data, steps and model where the options below do not: `fastgan list` names
    the presets"""
    data: str = "scenes"
    """scenes, fashion_mnist, cifar10, gaussian, or the path of a folder or zip of images"""
    steps: int | None = None
    """length of the whole run; none: the architecture's; a finished run is extended by asking for more"""
    batch_size: int | None = None
    """images a batch; none: the architecture's"""
    out: Path | None = None
    """run folder; none: runs/NAME-DATA; a run found there goes on"""
    seed: int = 0
    """of weights, noise and data order"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""
    fuse: bool = True
    """use fused layers (fastgan.fuse)"""
    ema_decay: float = 0.999
    """of the averaged generator that samples and metrics use; 0: none"""
    metric: tuple[str, ...] = ("fid",)
    """fid kid is precision recall density coverage: the first keeps the best checkpoint, the others are recorded; none:
    no measurements"""
    metric_features: str = "random_conv_v1"
    """feature net of the metrics, as `fastgan evaluate` takes it"""
    metric_images: int = 1000
    """images a measurement"""
    metric_every: int = 500
    """steps between measurements"""
    sample_every: int = 250
    """steps between sample grids"""
    checkpoint_every: int = 250
    """steps between checkpoints"""
    log_every: int = 25
    """steps between records in metrics.jsonl"""
    limit: int | None = None
    """use at most so many images of the data"""
    workers: int = 0
    """processes that read data ahead"""
    resume: Literal["auto", "must", "never"] = "auto"
    """auto: go on with the run in --out if there is one; must: there has to be one, and learning rates and precision
    may be other than they were"""
    skip_broken: bool = False
    """leave out images that cannot be read instead of refusing the data"""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the networks; auto: bfloat16 on GPUs that compute in it, else float32"""
    gradient_alarm: float | None = None
    """record the norm of each network's gradient and warn above this; 100 is trouble; none: do not look"""
    deterministic: bool = False
    """on CUDA: deterministic algorithms only"""
    augment: Literal["none", "diffaugment", "ada"] = "none"
    """transform what the discriminator sees, for few images: always, or as its overfitting asks for"""
    cuda_graph: bool = False
    """on CUDA: replay each update as one CUDA graph (not verified on hardware yet)"""
    sync_bn: bool = True
    """under torchrun: batch norm over the joint batch of all processes"""
    tensorboard: bool = False
    """also write records and sample grids to RUN/tensorboard, as `tensorboard --logdir` shows them"""
    dry_run: bool = False
    """walk one step of every stage, write nothing"""


def run(argv: Sequence[str]) -> None:
    if not argv or argv[0].startswith("-"):
        print(f"{USAGE}\nNAME is one of: {', '.join(registry.list_architectures())}")
        if argv and argv[0] not in ("-h", "--help"):
            raise ValueError(f"NAME comes first, got {argv[0]!r}")
        return
    name, *rest = argv
    cls = registry.get(name)
    options = tyro.cli(_options_class(cls, _preset_asked_for(cls, rest)), args=rest, prog=f"fastgan train {cls.name}")
    asked = {k: v for k, v in dataclasses.asdict(options.model).items() if v is not None}
    try:
        train(cls, options, asked)
    except TrainingDiverged as error:
        command = _command_to_go_on(cls, options, rest, error.saved_step)
        raise TrainingDiverged(f"{error}\n  {command}", error.saved_step) from error


def train(cls: type[Architecture], options: TrainOptions, model: dict[str, Any]) -> Trainer:
    """Build data, architecture and trainer from the options, and run; ``model`` holds the Config's fields."""
    architecture, data = prepare(
        cls, options.data, model, seed=options.seed, size=options.limit, skip_broken=options.skip_broken
    )
    steps = options.steps or architecture.defaults.get("steps", 2000)
    out = _run_folder(cls, options)
    trainer = Trainer(
        architecture,
        data,
        steps=steps,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        out=out,
        fuse=options.fuse,
        ema_decay=options.ema_decay,
        log_every=options.log_every,
        sample_every=options.sample_every,
        metric_every=options.metric_every,
        checkpoint_every=options.checkpoint_every,
        metric=_metric(options, data),
        callbacks=_callbacks(options, data),
        num_workers=options.workers,
        resume=options.resume,
        precision=options.precision,
        deterministic=options.deterministic,
        augment=None if options.augment == "none" else options.augment,
        cuda_graph=options.cuda_graph,
        sync_bn=options.sync_bn,
        dry_run=options.dry_run,
    )
    if trainer.processes.first:
        _say_what_runs(trainer, data, out)
    trainer.fit()
    if trainer.processes.first and not options.dry_run:
        _say_what_came_of_it(trainer, out)
    return trainer


def _run_folder(cls: type[Architecture], options: TrainOptions) -> Path:
    data = re.sub(r"[^\w.-]+", "-", Path(options.data).stem)  # "scenes?label=color" is no name of a folder
    return options.out or Path("runs") / f"{cls.name}-{data or 'data'}"


def _command_to_go_on(
    cls: type[Architecture], options: TrainOptions, arguments: Sequence[str], saved_step: int | None
) -> str:
    """The same command at half the learning rate: from the last good state, or from the beginning elsewhere."""
    added = ["--resume", "must"]
    if saved_step is None:
        out = _run_folder(cls, options)
        added = ["--out", str(out.with_name(f"{out.name}-again"))]
    rate = getattr(options.model, "lr", None)
    added += ["--precision", "float32"] if rate is None else ["--model.lr", f"{rate / 2:g}"]
    return shlex.join(["fastgan", "train", cls.name, *arguments, *added])


def _preset_asked_for(cls: type[Architecture], arguments: Sequence[str]) -> Preset | None:
    """The preset that the command line names: looked for first, because it decides the other options' defaults."""
    for i, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--preset":
            following = arguments[i + 1 : i + 2]
            return get_preset(cls, value if equals else following[0] if following else "")
    return None


def _options_class(cls: type[Architecture], preset: Preset | None = None) -> type:
    """TrainOptions with a field ``model`` made of the architecture's Config, one option a field; with the preset's
    values as defaults."""
    hints = get_type_hints(cls.Config)
    fields = []
    chosen = {} if preset is None else preset.model
    for f in dataclasses.fields(cls.Config):
        hint, default, text = hints[f.name], f.default, f.metadata.get("help", "")
        if default is dataclasses.MISSING:
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else dataclasses.MISSING
        if f.name in FROM_DATA:
            hint, default, text = int | None, None, f"{text}; none: as the data is"
        default = chosen.get(f.name, default)
        fields.append((f.name, Annotated[hint, tyro.conf.arg(help=text)], field(default=default)))
    model = dataclasses.make_dataclass(f"{cls.__name__}Options", fields)
    model.__doc__ = f"Options of {cls.name}."
    fields = [("model", model, field(default_factory=model))]
    if preset is not None:
        run = {"data": preset.data, "steps": preset.steps, "batch_size": preset.batch_size, "limit": preset.size}
        hints = get_type_hints(TrainOptions)
        fields += [(name, hints[name], field(default=value)) for name, value in run.items()]
    about = {"__doc__": _about(cls)}
    return dataclasses.make_dataclass("Options", fields, bases=(TrainOptions,), namespace=about)


def _about(cls: type[Architecture]) -> str:
    return (sys.modules[cls.__module__].__doc__ or f"Train {cls.name}.").strip()


def _measured(options: TrainOptions, data: ImageDataset) -> bool:
    return options.metric != ("none",) and max(data.image_size, data.channels) >= 8


def _metric(options: TrainOptions, data: ImageDataset) -> RunMetric | None:
    if not _measured(options, data):
        return None
    return RunMetric(
        Measure(data, options.metric, n=min(options.metric_images, len(data)), features=options.metric_features)
    )


def _callbacks(options: TrainOptions, data: ImageDataset) -> list[Callback]:
    callbacks: list[Callback] = []
    if options.gradient_alarm is not None:
        callbacks.append(GradientAlarm(options.log_every, options.gradient_alarm))
    if _measured(options, data) and len(data) >= 2 * CELLS:
        callbacks.append(CollapseWatch(CollapseDetector(data), data, options.metric_every))
    if options.tensorboard:
        callbacks.append(TensorBoard())
    return callbacks


def _say_what_runs(trainer: Trainer, data: ImageDataset, out: Path) -> None:
    parameters = sum(p.numel() for p in trainer.architecture.parameters())
    kernels = "kernels" if _kernels_run(trainer) else "PyTorch reference"
    print(f"model    {trainer.architecture.name}, {parameters / 1e6:.2f} M parameters, {kernels} on {trainer.device}")
    print(f"data     {data.describe()}")
    several = f", shared by {trainer.processes.world} processes" if trainer.processes.world > 1 else ""
    print(f"run      {out}, {trainer.steps} steps of {trainer.batches.batch_size} images{several}", flush=True)


def _kernels_run(trainer: Trainer) -> bool:
    from fastgan.ops import _dispatch

    return _dispatch.use_kernel("clip_weights_", next(trainer.architecture.parameters()))


def _say_what_came_of_it(trainer: Trainer, out: Path) -> None:
    for phase, how in trainer.updates.report.items():
        print(f"graph    {phase}: {how}")
    grids = sorted((out / "samples").glob("*.png"))
    if grids:
        print(f"samples  {grids[-1]}")
    print(f"metrics  {out / 'metrics.jsonl'}")
    print(f"next     fastgan sample {out}, fastgan report {out}")
