"""What of a GPU's numbers is still owed, and on which GPUs the kernels were seen to be right.

    python benchmarks/owed.py [RESULTS_FOLDER]

Owed is every row of `fastgan bench --device cuda` that has a goal, in the precisions that benchmarks/gpu.sh measures,
until a result file of the GPU has it; and the steps beside torch.compile. A compute capability is verified by a file of
gpu_check.py that holds all checks and no failure, of a commit without changes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fastgan import bench
from fastgan.bench import report
from fastgan.bench.case import Case
from fastgan.bench.passes import PassCase
from fastgan.bench.step import StepCase

RESULTS = Path(__file__).resolve().parent / "results"
GPU = "nvidia-h200"  # the goals are set for
PRECISIONS = {StepCase: ("bfloat16", "tf32", "float32"), PassCase: ("bfloat16", "float32")}
PENALTY_PRECISIONS = COMPILED_PRECISIONS = ("bfloat16", "tf32")
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


def owed(results: Path, gpu: str = GPU) -> list[str]:
    """One line for each thing that no file of ``gpu`` has yet."""
    rows = [row for path in sorted((results / gpu).glob("*-bench-*.json")) for row in report.read(path)[1]]
    measured = {(f"{r.op} {r.case}", r.dtype) for r in rows}
    compiled = {(f"{r.op} {r.case}", r.dtype) for r in rows if any(p.startswith("compile") for p in r.seconds)}
    lines = []
    if not any(path.parent.name == gpu for path in verified(results).values()):
        lines.append("every check of gpu_check.py, passed")
    passes: dict[str, int] = {}
    for case in bench.all_cases("cuda"):
        if not case.cuda_goals:
            continue
        missing = [p for p in PRECISIONS.get(type(case), PENALTY_PRECISIONS) if (str(case), p) not in measured]
        if isinstance(case, PassCase):
            for precision in missing:
                passes[precision] = passes.get(precision, 0) + 1
            continue
        lines += [f"{case}: {', '.join(missing)} ({_goals(case)})"] if missing else []
        if isinstance(case, StepCase):
            missing = [p for p in COMPILED_PRECISIONS if (str(case), p) not in compiled]
            lines += [f"{case}, beside torch.compile: {', '.join(missing)}"] if missing else []
    lines += [f"{n} passes over memory, {precision} ({_goals(PassCase)})" for precision, n in passes.items()]
    return lines


def _goals(case: Case | type[Case]) -> str:
    words = {"eager": "{:g}x eager", "strongest": "{:g}x the strongest PyTorch", "copy": "{:.0%} of a copy's speed"}
    return "goal " + ", ".join(words[name].format(goal) for name, goal in case.cuda_goals.items())


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
