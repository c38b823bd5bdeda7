"""What of a GPU's numbers is still owed, and on which GPUs the kernels were seen to be right.

    python benchmarks/owed.py [RESULTS_FOLDER]

Owed is every row of `fastgan bench --device cuda` that has a goal or is a layer or a network, in the precisions that
benchmarks/gpu.sh measures, until a result file of the GPU has it; steps, networks and layers beside torch.compile too.
A compute capability is verified by a file of gpu_check.py that holds all checks and no failure, of a commit without
changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastgan import bench
from fastgan.bench import report
from fastgan.bench.case import COMPILED, Case
from fastgan.bench.conv_bn_act import ConvBnActCase
from fastgan.bench.network import NetworkCase
from fastgan.bench.passes import PassCase
from fastgan.bench.shapes import CUDA_BATCH_SIZE, GP_CRITIC
from fastgan.bench.step import StepCase

RESULTS = Path(__file__).resolve().parent / "results"
GPU = "nvidia-h200"  # the goals are set for
LAYER_BATCHES = (16, 64, 128, 256, 1024)
CHECKS = "every check of gpu_check.py, passed"
SKIPPED = "skipped: "  # as gpu_check.py writes it


def verified(results: Path) -> dict[tuple[int, int], Path]:
    """The compute capabilities on which every check has passed, each with a file that shows it."""
    found = {}
    for path in sorted(results.glob("*/*-check.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        facts = content["environment"]
        outcomes = [text for cases in content["checks"].values() for text in cases.values()]
        passed = all(text is None or text.startswith(SKIPPED) for text in outcomes)
        committed = facts["commit"] and not facts["uncommitted_changes"]
        if passed and outcomes and content["complete"] and committed and facts["gpu_capability"]:
            found[tuple(facts["gpu_capability"])] = path
    return found


def cases() -> list[Case]:
    """What may be owed: all at the GPU's batch size, and DCGAN's layers at other ones."""
    others = [case for case in bench.all_cases("cuda") if not isinstance(case, ConvBnActCase)]
    layers = [case for case in bench.all_cases("cuda", LAYER_BATCHES) if isinstance(case, ConvBnActCase)]
    return [*others, *(case for case in layers if case.layer not in GP_CRITIC)]


def precisions(case: Case, compiled: bool) -> tuple[str, ...]:
    """Those in which gpu.sh measures it, with torch.compile or without."""
    if isinstance(case, ConvBnActCase):
        return ("bfloat16", "tf32", "float32") if case.batch_size == CUDA_BATCH_SIZE and not compiled else ("bfloat16",)
    if isinstance(case, NetworkCase):
        return ("bfloat16",) if compiled else ("bfloat16", "tf32")
    if isinstance(case, StepCase):
        return ("bfloat16", "tf32") if compiled else ("bfloat16", "tf32", "float32")
    if isinstance(case, PassCase):
        return () if compiled else ("bfloat16", "float32")
    return ("bfloat16", "tf32")


def owed(results: Path, gpu: str = GPU) -> list[str]:
    """One line for each thing that no file of ``gpu`` has yet."""
    rows = [row for path in sorted((results / gpu).glob("*-bench-*.json")) for row in report.read(path)[1]]
    measured = {
        (f"{r.op} {r.case}", r.mode, r.dtype, compiled)
        for r in rows
        for compiled in (False, True)
        if not compiled or any(p.startswith("compile") for p in r.seconds)
    }
    missing: dict[str, Counter[str]] = {}  # rows by line and precision
    goals: dict[str, str] = {}
    for case in cases():
        for mode, compiled in itertools.product(case.modes, (False, True)):
            line = _line(case) + (", beside torch.compile" if compiled else "")
            if compiled and not set(COMPILED) & set(case.providers(mode, compiled=True)):
                continue
            for precision in precisions(case, compiled):
                goal = case.cuda_goals(mode, precision)
                if not goal and not isinstance(case, (ConvBnActCase, NetworkCase)):
                    continue
                if (str(case), mode, precision, compiled) not in measured:
                    missing.setdefault(line, Counter())[precision] += 1
                if goal and not compiled:
                    goals[line] = _goal(case, goal)
    lines = [] if any(path.parent.name == gpu for path in verified(results).values()) else [CHECKS]
    return lines + [f"{line}: {_counted(found)}{goals.get(line, '')}" for line, found in missing.items()]


def _line(case: Case) -> str:
    if isinstance(case, PassCase):
        return "passes over memory"
    if isinstance(case, ConvBnActCase):
        return f"layers of DCGAN, batch {case.batch_size}"
    if isinstance(case, NetworkCase):
        return f"networks of DCGAN, batch {case.batch_size}"
    return str(case)


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{n} in {precision}" if n > 1 else precision for precision, n in found.items())


def _goal(case: Case, goal: dict[str, float]) -> str:
    words = {"eager": "{:g}x eager", "strongest": "{:g}x the strongest PyTorch", "copy": "{:.0%} of a copy's speed"}
    of_one = {ConvBnActCase: "forward + backward in bfloat16 ", NetworkCase: "the generator's eval in bfloat16 "}
    return (
        f" (goal {of_one.get(type(case), '')}"
        + ", ".join(words[name].format(value) for name, value in goal.items())
        + ")"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help="default: benchmarks/results")
    results = parser.parse_args(arguments).results
    shown = verified(results)
    print("Verified:", ", ".join(f"sm_{a}{b} ({path.name})" for (a, b), path in shown.items()) or "on no GPU yet")
    lines = owed(results)
    print(f"Owed for {GPU}:" if lines else f"Nothing is owed for {GPU}.")
    print(*(f"- {line}" for line in lines), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
