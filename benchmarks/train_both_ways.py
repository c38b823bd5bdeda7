"""Training with fastgan's kernels reaches what training without them reaches: same seeds, both ways, curves kept.

    python benchmarks/train_both_ways.py [--seeds 0 1 2] [--steps 1500] [--out benchmarks/results]
    python benchmarks/train_both_ways.py --only kernels 0    # one run; without it, all that are missing

A small DCGAN is trained on the built-in scenes once by the kernels and once by PyTorch alone, from the same weights,
noise and order of images. Its averaged generator is measured every so many steps, on the same noise every time. RULE
below says when both ways count as reaching the same metric.

The losses of a seed's first step agree to rounding. Later ones do not: training multiplies any difference, whatever it
comes from. The third way shows that rounding is enough: PyTorch alone again, for the first steps, with weights and
activations in NCHW, where it adds in another order. The picture has both differences, step by step.

A run leaves a record and a sample grid in --runs, the comparison a .json file and a picture in --out. Wall seconds are
in the records, but runs may share the machine: they are no benchmark.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from fastgan import ops, registry
from fastgan.architectures.base import Architecture
from fastgan.bench import report
from fastgan.bench.case import implementation_of
from fastgan.data import load
from fastgan.metrics import Measure
from fastgan.nn.fused import geometry_of, is_swapped
from fastgan.ops._conv_bn_act import worthwhile
from fastgan.ops._convolution import plan
from fastgan.training import rng
from fastgan.training.callbacks import Callback
from fastgan.training.grid import save_grid
from fastgan.training.trainer import Trainer

ARCHITECTURE = "dcgan"
WAYS = {  # the implementation of the ops, and whether weights and images are channels_last
    "kernels": ("auto", True),
    "reference": ("reference", True),
    "reference-nchw": ("reference", False),
}
NCHW_STEPS = 300  # at most, of the third way
LAST = 5  # measurements that make a run's result: one alone swings
RULE = (
    f"a run's result is the mean of its last {LAST} measurements; both ways reach the same metric if the means of "
    "their seeds' results lie no farther apart than the best and the worst seed of the reference, and if training has "
    "at least halved the metric both ways"
)
# Relative, of the losses before the first update: what Winograd may be off in a single value (tests/numerics.py).
FIRST_LOSSES = 1e-5
FIRST = ("discriminator/adversarial", "discriminator/p_real", "discriminator/p_fake")

Curve = list[tuple[int, float]]  # (step, metric)


@dataclass(frozen=True)
class Options:
    """What all runs of a comparison share."""

    data: str = "scenes"
    images: int = 4096
    image_size: int = 32
    width: int = 32  # ngf and ndf
    batch_size: int = 64
    steps: int = 1500
    every: int = 75  # steps between measurements
    metric_images: int = 2048


# -- one run -----------------------------------------------------------------------------------------------------------
class Watch(Callback):
    """Keeps the metric every so many steps, step 0 included, the losses of every step, and where the noise ended."""

    def __init__(self, metric: Measure | None, every: int) -> None:
        self.metric, self.every = metric, every
        self.curve: Curve = []
        self.losses: dict[str, list[float]] = {}
        self.random_state = ""

    def on_start(self, trainer: Trainer) -> None:
        self.measure(trainer)

    def on_step(self, trainer: Trainer) -> None:
        if trainer.due(self.every):
            self.measure(trainer)

    def on_record(self, trainer: Trainer, record: dict) -> None:
        for name, value in record.items():
            if "/" in name:
                self.losses.setdefault(name, []).append(value)

    def on_end(self, trainer: Trainer) -> None:
        self.random_state = digest([torch.get_rng_state()])

    def measure(self, trainer: Trainer) -> None:
        if self.metric is not None:
            with trainer.averaged() as gan, rng.isolated(rng.mix(trainer.seed, 3)):
                (value,) = self.metric(gan.sample).values()
                self.curve.append((trainer.step, value))


def train(options: Options, way: str, seed: int, folder: Path) -> dict:
    """Train one way; the record, which is also written to ``folder`` beside a grid of samples.

    Raises:
        ValueError: a hidden layer runs by other means than ``way`` says.
    """
    implementation, channels_last = WAYS[way]
    full = way != "reference-nchw"
    data = load(options.data, image_size=options.image_size, channels=3, size=options.images)
    torch.manual_seed(seed)
    gan = registry.create(ARCHITECTURE, image_size=options.image_size, channels=3, ngf=options.width, ndf=options.width)
    weights, shapes = digest(gan.state_dict().values()), input_shapes(gan, options.batch_size)
    watch = Watch(Measure(data, n=options.metric_images) if full else None, options.every)
    ops.release_workspaces()
    with ops.use(implementation):
        trainer = Trainer(
            gan, data, steps=options.steps if full else min(options.steps, NCHW_STEPS), batch_size=options.batch_size,
            seed=seed, device="cpu", channels_last=channels_last, log_every=1, sample_every=None, metric_every=None,
            checkpoint_every=None, callbacks=[watch], progress=False,
        )  # fmt: skip
        layers = {name: computed_by(gan.get_submodule(name), shape) for name, shape in shapes.items()}
        check_hidden_layers(gan, layers, "winograd" if way == "kernels" else "reference")
        started = time.perf_counter()
        trainer.fit()
        seconds = time.perf_counter() - started
        with trainer.averaged(), rng.isolated(rng.mix(seed, 2)):
            images = gan.sample(64)
    record = {
        "way": way,
        "seed": seed,
        "options": asdict(options),
        "environment": report.environment(torch.device("cpu")),
        "layers": layers,
        "workspace_bytes": ops.release_workspaces(),  # scratch memory of the kernels: 0 where none ran
        "metric": watch.metric.label("fid") if full else None,
        "curve": watch.curve,
        "first_losses": {name: watch.losses[name][0] for name in watch.losses},
        "discriminator_losses": [float(f"{v:.9g}") for v in watch.losses["discriminator/adversarial"][:NCHW_STEPS]],
        "mean_losses": {name: means(values, options.every) for name, values in watch.losses.items()} if full else {},
        "first_weights": weights,
        "last_random_state": watch.random_state,
        "batches": trainer.batches.position,
        "wall_seconds": round(seconds, 3),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_grid(images, record_file(folder, way, seed).with_suffix(".png"))
    record_file(folder, way, seed).write_text(json.dumps(record) + "\n")
    return record


def record_file(folder: Path, way: str, seed: int) -> Path:
    return folder / f"{way}-{seed}.json"


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """The same for the same bits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def means(values: list[float], every: int) -> list[float]:
    """Of each interval of ``every`` steps."""
    return [round(statistics.fmean(values[i : i + every]), 5) for i in range(0, len(values), every)]


# -- which implementation runs -----------------------------------------------------------------------------------------
def input_shapes(gan: Architecture, batch_size: int) -> dict[str, torch.Size]:
    """The shape that every convolution of the (not yet fused) networks gets, by its name."""
    shapes: dict[str, torch.Size] = {}
    convolutions = {n: m for n, m in gan.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))}
    hooks = [
        module.register_forward_hook(lambda _, args, __, name=name: shapes.update({name: args[0].shape}))
        for name, module in convolutions.items()
    ]
    was_training = gan.training
    with torch.no_grad(), rng.isolated(0):
        gan.eval().discriminator(gan.sample(batch_size))
    gan.train(was_training)
    for hook in hooks:
        hook.remove()
    return shapes


def computed_by(module: nn.Module, shape: torch.Size) -> str:
    """What computes a convolution of a fused network, in the words of ``fastgan bench``."""
    if not is_swapped(module):
        return "PyTorch (not fused)"
    conv, x = geometry_of(module), torch.empty(shape)
    # In these networks a norm stands for the bias, and nothing follows the convolution to one score.
    norm, activation = module.bias is None, "none" if module.out_channels == 1 else "relu"
    pays = worthwhile(conv, x, module.weight, norm, activation)
    found = implementation_of(conv.name, x, module.weight, worthwhile=pays)
    products = plan(x, module.weight, *conv.as_aten_arguments())
    return found if found == "reference" else f"{found}: {', '.join(dict.fromkeys(products))}"


def check_hidden_layers(gan: Architecture, layers: dict[str, str], expected: str) -> None:
    """Hidden are the stride-2 convolutions between many channels: not the RGB ends, nor those from or to 1x1."""
    for name, found in layers.items():
        conv = gan.get_submodule(name)
        hidden = conv.stride == (2, 2) and min(conv.in_channels, conv.out_channels) > 4
        if hidden and found.split(": ")[-1] != expected:
            raise ValueError(f"hidden layer {name} is computed by {found!r}, not by {expected}: take another --width")


# -- the comparison ----------------------------------------------------------------------------------------------------
def verdict(kernels: list[Curve], reference: list[Curve]) -> dict:
    """RULE on the curves of both ways, one a seed, two seeds or more."""
    with_kernels, without = summary(kernels), summary(reference)
    first = statistics.fmean(curve[0][1] for curve in reference)
    difference = with_kernels["mean"] - without["mean"]
    spread = max(without["results"]) - min(without["results"])
    return {
        "first": first,
        "kernels": with_kernels,
        "reference": without,
        "difference": difference,
        "standard_error": math.hypot(with_kernels["deviation"], without["deviation"]) / math.sqrt(len(reference)),
        "spread": spread,
        "same": abs(difference) <= spread and max(with_kernels["mean"], without["mean"]) <= first / 2,
    }


def summary(curves: list[Curve]) -> dict:
    results = [statistics.fmean(value for _, value in curve[-LAST:]) for curve in curves]
    return {"results": results, "mean": statistics.fmean(results), "deviation": statistics.stdev(results)}


def check_pair(kernels: dict, reference: dict) -> dict:
    """What the runs of one seed share, bit for bit, and how near their first losses are.

    Raises:
        ValueError: they began or went on from other numbers, or differ by more than rounding before the first update.
    """
    seed = reference["seed"]
    for what in ("first_weights", "last_random_state", "batches"):
        if kernels[what] != reference[what]:
            raise ValueError(f"seed {seed}: {what} is {kernels[what]} by the kernels, {reference[what]} without")
    if not kernels["workspace_bytes"] or reference["workspace_bytes"]:
        raise ValueError(f"seed {seed}: the kernels did not run where they should, or ran where they should not")
    apart = {
        name: abs(kernels["first_losses"][name] - value) / abs(value)
        for name, value in reference["first_losses"].items()
    }
    if any(apart[name] > FIRST_LOSSES for name in FIRST):
        raise ValueError(f"seed {seed}: losses before the first update differ by more than {FIRST_LOSSES:g}: {apart}")
    return {"seed": seed, "first_losses_apart": apart}


def apart_by_step(run: dict, other: dict) -> list[float]:
    """Relative difference of the discriminator's losses, step by step."""
    pairs = zip(run["discriminator_losses"], other["discriminator_losses"], strict=False)
    return [abs(a - b) / abs(b) for a, b in pairs]


def compare(runs: dict[tuple[str, int], dict], seeds: list[int]) -> dict:
    """The content of the result file."""
    told = [{name: fact for name, fact in run["environment"].items() if name != "date"} for run in runs.values()]
    if any(facts != told[0] for facts in told):
        raise ValueError("the runs come from different trees, builds or machines: train them again in another --runs")
    first = runs["kernels", seeds[0]]
    shown = ("way", "seed", "layers", "workspace_bytes", "curve", "mean_losses", "first_losses",
             "discriminator_losses", "wall_seconds")  # fmt: skip
    return {
        "schema": report.SCHEMA,
        "environment": first["environment"],
        "architecture": ARCHITECTURE,
        "options": first["options"],
        "metric": {"name": first["metric"], "images": first["options"]["metric_images"], "lower_is_better": True},
        "note": "wall seconds are no benchmark: runs may have shared the machine; losses are means of the intervals "
        "between measurements, discriminator_losses those of every one of the first steps",
        "rule": RULE,
        "verdict": verdict(*([runs[way, seed]["curve"] for seed in seeds] for way in ("kernels", "reference"))),
        "pairs": [check_pair(runs["kernels", seed], runs["reference", seed]) for seed in seeds],
        "runs": [{name: run[name] for name in shown} for run in runs.values()],
    }


def table(result: dict) -> str:
    seeds = [pair["seed"] for pair in result["pairs"]]
    v, options = result["verdict"], result["options"]
    lines = [
        f"{result['metric']['name']} ({result['metric']['images']} images, lower is better) after {options['steps']} "
        f"steps, the mean of the last {LAST} measurements; {v['first']:.2f} at step 0",
        f"{'':10}" + "".join(f"{f'seed {seed}':>10}" for seed in seeds) + f"{'mean +- sd':>18}",
    ]
    for way in ("kernels", "reference"):
        mean_sd = f"{v[way]['mean']:.3f} +- {v[way]['deviation']:.3f}"
        lines.append(f"{way:10}" + "".join(f"{value:10.3f}" for value in v[way]["results"]) + f"{mean_sd:>18}")
    lines += [
        f"difference of the means {v['difference']:+.3f} (standard error {v['standard_error']:.3f}); "
        f"spread of the reference's seeds {v['spread']:.3f}",
        f"verdict: {'the same metric both ways' if v['same'] else 'NOT the same metric'} ({result['rule']})",
    ]
    return "\n".join(lines)


def draw(result: dict, file: Path) -> None:
    """The curves of both ways, and how fast their losses part."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the picture needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = {(run["way"], run["seed"]): run for run in result["runs"]}
    seeds = [pair["seed"] for pair in result["pairs"]]
    colors = {"kernels": "tab:blue", "reference": "tab:orange", "reference-nchw": "tab:gray"}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.2))
    for way in ("kernels", "reference"):
        curves = [runs[way, seed]["curve"] for seed in seeds]
        steps = [step for step, _ in curves[0]]
        for curve in curves:
            left.plot(steps, [value for _, value in curve], color=colors[way], linewidth=0.6)
        mean = [statistics.fmean(curve[i][1] for curve in curves) for i in range(len(steps))]
        left.plot(steps, mean, color=colors[way], linewidth=2.5, label=f"{way}, mean of {len(seeds)} seeds")
    left.set(xlabel="step", ylabel=result["metric"]["name"], yscale="log", title="the metric (thin: one seed)")
    for way in ("kernels", "reference-nchw"):
        curves = [apart_by_step(runs[way, seed], runs["reference", seed]) for seed in seeds]
        steps = range(1, len(curves[0]) + 1)
        for curve in curves:
            right.plot(steps, curve, color=colors[way], linewidth=0.4)
        middle = [statistics.median(values) for values in zip(*curves, strict=True)]
        right.plot(steps, middle, color=colors[way], linewidth=1.8, label=f"{way} against reference, median")
    right.set(
        xlabel="step", ylabel="relative difference of D's loss", xscale="log", yscale="log",
        title="how rounding grows (thin: one seed)",
    )  # fmt: skip
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    parser.add_argument("--only", nargs=2, metavar=("WAY", "SEED"), help=f"train this run alone: {', '.join(WAYS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/both_ways"), help="a folder for the runs' records")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="a folder for the result")
    for field in fields(Options):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    given = parser.parse_args(arguments)
    options = Options(**{field.name: getattr(given, field.name) for field in fields(Options)})
    if given.only:
        way, seed = given.only
        if way not in WAYS:
            parser.error(f"--only takes a way of {', '.join(WAYS)}, got {way!r}")
        train(options, way, int(seed), given.runs)
        return
    if len(given.seeds) < 2:
        parser.error("a spread takes two seeds or more")
    runs = {}
    for seed in given.seeds:
        for way in WAYS:
            file = record_file(given.runs, way, seed)
            runs[way, seed] = json.loads(file.read_text()) if file.exists() else train(options, way, seed, given.runs)
            if runs[way, seed]["options"] != asdict(options):
                parser.error(f"{file} is a run with other options: give another folder as --runs")
    result = compare(runs, given.seeds)
    facts = result["environment"]
    file = given.out / f"{facts['date'][:10]}-{facts['commit'] or 'uncommitted'}-both-ways.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    draw(result, file.with_suffix(".png"))
    print(table(result))


if __name__ == "__main__":
    main()
