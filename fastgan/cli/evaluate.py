"""`fastgan evaluate RUN`: measure a trained run against its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastgan.data import ImageDataset, load
from fastgan.metrics import METRICS, CollapseDetector, CollapseReport, Measure
from fastgan.training.checkpoint import CheckpointError, load_state, read_run
from fastgan.training.measuring import sampler
from fastgan.training.options import choose_device
from fastgan.training.run_folder import EVALUATIONS, RunFolder


@dataclass
class EvaluateOptions:
    """Measure a trained run: print a table and append it to RUN/evaluation.jsonl. Numbers of two feature nets, image
    counts or data sets do not compare; the line says what they were."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder or checkpoint file"""
    metrics: tuple[str, ...] = ("fid", "kid", "prdc")
    """fid kid is precision recall density coverage; prdc: the last four"""
    features: str = "random_conv_v1"
    """random_conv_v1, efficientnet_lite0, a .safetensors file of `fastgan train-features`, or a .pth file of FID's
    Inception weights"""
    samples: int = 2048
    """how many samples, and at most how many real images"""
    data: str | None = None
    """real images; none: what the run was trained on"""
    split: str = "train"
    """of the real images"""
    which: Literal["best", "last"] = "best"
    """best by the run's metric, or the last"""
    ema: bool = True
    """the averaged generator; --no-ema: the last step's"""
    seed: int = 0
    """of the noise"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""
    batch_size: int = 256
    """images made at a time"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(EvaluateOptions, args=argv, prog="fastgan evaluate")
    state, file = read_run(options.run, options.which)
    device = choose_device(options.device)
    architecture = load_state(state, file, ema=options.ema).to(device)
    data = _real_images(options, state["config"])
    measure = Measure(data, options.metrics, options.samples, options.features, options.batch_size)
    torch.manual_seed(options.seed)
    values = measure(sampler(architecture, data))
    collapse = _collapse(architecture, data, options)
    record = {
        "checkpoint": file.name,
        "step": state["step"],
        "ema": options.ema,
        "features": measure.net.name,
        "samples": options.samples,
        "real_images": min(options.samples, len(data)),
        "data": data.describe(),
        "seed": options.seed,
        "values": {name: value if value == value else None for name, value in values.items()},  # JSON has no NaN
        "collapse": None if collapse is None else collapse.as_dict(),
    }
    _print_table(record, collapse)
    folder = RunFolder(file.parent.parent if file.parent.name == "checkpoints" else file.parent)
    folder.append(record, EVALUATIONS)
    print(f"appended to {folder.path / EVALUATIONS}")


def _real_images(options: EvaluateOptions, config: Mapping[str, Any]) -> ImageDataset:
    recorded, shape = config["data"], config["architecture"]["config"]
    spec = options.data or recorded.get("spec")
    if spec is None:
        raise CheckpointError(f"{options.run} was trained on data that it has no path of: give --data")
    same = spec == recorded.get("spec") and options.split == "train"
    subset = {"size": recorded["items"], "seed": recorded["seed"]} if same else {}
    return load(spec, image_size=shape["image_size"], channels=shape["channels"], split=options.split, **subset)


def _collapse(architecture: Any, data: ImageDataset, options: EvaluateOptions) -> CollapseReport | None:
    """The detector's verdict; None where there are too few images for one, or samples are not finite."""
    try:
        detector = CollapseDetector(data, n=min(256, options.samples))
    except ValueError:
        return None
    torch.manual_seed(options.seed)
    return detector(sampler(architecture, data)(detector.n))


def _print_table(record: Mapping[str, Any], collapse: CollapseReport | None) -> None:
    weights = "averaged" if record["ema"] else "last step's"
    print(f"run       step {record['step']} ({record['checkpoint']}), {weights} weights, seed {record['seed']}")
    print(f"data      {record['data']}")
    print(f"images    {record['samples']} samples, {record['real_images']} real\n")
    width = max(map(len, record["values"]))
    for name, value in record["values"].items():
        metric = METRICS.get(name.split("[")[0])
        note = (
            "" if metric is None else f"  {'lower' if metric.lower_is_better else 'higher'} is better: {metric.about}"
        )
        print(f"  {name:<{width}}  {'NaN' if value is None else format(value, '<10.5g')}{note}")
    if collapse is not None:
        ours, real = collapse.samples, collapse.real
        pairs = "" if ours.ms_ssim is None else f"MS-SSIM {ours.ms_ssim:.3f} (real {real.ms_ssim:.3f}), "
        nearest = f"nearest neighbour {ours.nearest:.3g} ({real.nearest:.3g})"
        print(f"\n  {collapse}\n  {pairs}{nearest}, clusters {ours.modes} ({real.modes})")
    print()
