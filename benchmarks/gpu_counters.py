"""What a GPU's counters say of our kernels: each once, under Nsight Compute, in a table.

    python benchmarks/gpu_counters.py [--out FILE.txt]

Kernels: the passes over memory at DCGAN's largest hidden layer, batch 128, bfloat16 in channels_last; those of two of
its layers, forward and backward, as the trial chose them; the penalty's; the optimisers'. Columns: time, share of the
DRAM's speed, bytes it moved, achieved occupancy, registers, and the three reasons for which warps waited longest (warps
waiting for it a cycle in which one was issued). Caches are emptied before each kernel; clocks are left as they are, so
that times are not those of the benchmarks.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from fastgan import ops
from fastgan.bench import conv_bn_act, passes, rmsprop
from fastgan.bench.case import Case
from fastgan.bench.clip_weights import ClipWeightsCase
from fastgan.bench.shapes import CUDA_BATCH_SIZE

METRICS = {
    "time": "gpu__time_duration.sum",
    "DRAM": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "read": "dram__bytes_read.sum",
    "written": "dram__bytes_write.sum",
    "occupancy": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")
NOT_A_WAIT = {"selected", "not_selected"}


def cases() -> list[Case]:
    found = [case for case in passes.cases(CUDA_BATCH_SIZE) if case.quick]
    found += [case for case in conv_bn_act.cases(CUDA_BATCH_SIZE) if case.quick]
    critic = ClipWeightsCase("DCGAN critic")
    return [*found, critic, rmsprop.RMSpropCase(critic)]


def run_all() -> None:
    """Every case once between cudaProfilerStart and cudaProfilerStop, warmed up before."""
    device = torch.device("cuda")
    with ops.use("kernel"):
        for case in cases():
            dtype = torch.bfloat16 if torch.bfloat16 in case.dtypes else torch.float32
            layer = "both" in case.modes
            provider, mode = ("fastgan channels_last", "both") if layer else ("fastgan", "step")
            call = case.setup(provider, dtype, device).modes[mode]
            call()
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            call()
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


def table(lines: Iterable[str]) -> list[str]:
    """Ncu's raw page as CSV, of which the first row names the metrics and the second their units, as a table."""
    rows = list(csv.DictReader(line for line in lines if line.startswith('"')))
    if len(rows) < 2:
        return ["no kernel was profiled"]
    units, *kernels = rows
    header = f"{'kernel':<44} {'grid':<16} " + " ".join(f"{name:>14}" for name in METRICS) + "  waits"
    return [header, *(_line(kernel, units) for kernel in kernels)]


def _line(kernel: dict[str, str], units: dict[str, str]) -> str:
    name = re.sub(r"^void |\(.*$", "", kernel["Kernel Name"])
    values = (f"{kernel.get(m) or '-'} {units.get(m) or ''}".strip() for m in METRICS.values())
    stalls = {found[1]: float(kernel[m] or 0) for m in kernel if (found := STALL.fullmatch(m))}
    longest = sorted((s for s in stalls if s not in NOT_A_WAIT), key=stalls.get, reverse=True)[:3]
    waits = ", ".join(f"{s} {stalls[s]:.2f}" for s in longest)
    return f"{name[:44]:<44} {kernel.get('Grid Size', '-'):<16} " + " ".join(f"{v:>14}" for v in values) + f"  {waits}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write the table there too")
    parser.add_argument("--run", action="store_true", help="only run the kernels: what ncu is given to watch")
    options = parser.parse_args(arguments)
    if options.run:
        run_all()
        return 0
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        command = ["ncu", "--set", "full", "--clock-control", "none", "--profile-from-start", "off", "--csv"]
        command += ["--page", "raw", "--log-file", str(log), sys.executable, __file__, "--run"]
        status = subprocess.run(command, check=False).returncode
        text = log.read_text(encoding="utf-8") if log.exists() else ""
    lines = table(text.splitlines())
    if status:
        lines += text.splitlines()[-5:]  # ncu says there why
    print(*lines, sep="\n")
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
