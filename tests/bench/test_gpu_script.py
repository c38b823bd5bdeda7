"""benchmarks/gpu.sh with programs that only say what they were asked: what runs, in which order, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = {
    "nvidia-smi": """
        case "$*" in *--query-gpu=name*) echo "NVIDIA H200" ;; *compute_cap*) echo "${CAPABILITY-9.0}" ;; esac""",
    "nvcc": "echo release 13.0",
    "ncu": "true",
    "timeout": 'shift 2; [[ -n ${LATE-} && "$*" == *"$LATE"* ]] && exit 124; exec "$@"',
    "compute-sanitizer": 'echo "asked: sanitizer $*"',
    # --out FILE is written; a word of the command in $FAIL: it fails, in $SLOW: it takes $SLEEP seconds
    "python-stub": """
        echo "asked: $*" | head -n 1
        [[ -n ${FAIL-} && "$*" == *"$FAIL"* ]] && exit 1
        [[ -n ${SLOW-} && "$*" == *"$SLOW"* ]] && exec sleep ${SLEEP-60}
        while [ $# -gt 0 ]; do [ "$1" = --out ] && echo {} >"$2"; shift; done; true""",
}


@pytest.fixture
def gpu_sh(tmp_path):
    """gpu_sh(*options, without=(), **environment) -> (exit status, output, names of the files written)."""

    def run(*options: str, without: tuple[str, ...] = (), **environment: str):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, body in STUBS.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (folder / name).chmod(0o755)
        for name in without:
            (folder / name).unlink()
        environment = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "PYTHON": "python-stub",
            "FASTGAN_COMMIT": "c0ffee",
        } | environment
        results = tmp_path / "results"
        done = subprocess.run(
            [ROOT / "benchmarks" / "gpu.sh", *options, results],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        files = sorted(re.sub(r"\d{4}-\d\d-\d\d-", "", p.name) for p in results.glob("nvidia-h200/*"))
        return done.returncode, done.stdout + done.stderr, files

    return run


def verdicts(output: str) -> list[str]:
    return re.findall(r"^(?:passed|FAILED|TIMEOUT|skipped|put off) +.*$", output, re.MULTILINE)


def test_everything_passes(gpu_sh):
    status, output, files = gpu_sh()
    assert status == 0, output
    names = [line.split()[1] for line in verdicts(output)]
    assert names[:6] == ["environment", "build", "layouts", "check", "sanitize-memcheck", "sanitize-racecheck"]
    assert names[6:] == [
        "ops-bfloat16", "ops-float32", "steps-bfloat16", "steps-tf32", "steps-float32", "penalty-bfloat16",
        "penalty-tf32", "graphs", "ncu", "tests", "networks-bfloat16", "networks-tf32", "layers_128-bfloat16",
        "layers_128-tf32", "layers_128-float32", "layers_1024-bfloat16", "table",
    ]  # fmt: skip
    assert {line.split()[0] for line in verdicts(output)} == {"passed"} and "next:" not in output
    assert "c0ffee-check.json" in files and "c0ffee.log" in files and "c0ffee.md" in files
    assert sum("-bench-" in name for name in files) == 13
    assert (
        "asked: -m fastgan.bench --device cuda --impl kernel --dtype tf32 --only step dcgan 64 step wgan-gp" in output
    )


def test_parts_are_chosen_and_failures_told(gpu_sh):
    status, output, files = gpu_sh("--parts", "penalty,check", FAIL="gpu_check")
    assert status == 1
    assert [line.split()[:2] for line in verdicts(output)] == [
        ["passed", "environment"], ["passed", "build"], ["FAILED", "check"], ["passed", "penalty-bfloat16"],
        ["passed", "penalty-tf32"], ["passed", "table"],
    ]  # fmt: skip
    status, output, _ = gpu_sh("--parts", "layouts,layers_16,layers_64_compile", CAPABILITY="8.0")
    assert status == 0 and "skipped  layouts (compute capability 8.0, not 9.0)" in output
    asked = re.findall(
        r"^asked: -m fastgan.bench .* --only (bn_act G bn_act D) .*(--no-memory.*)$", output, re.MULTILINE
    )
    assert asked == [("bn_act G bn_act D", "--no-memory --batch 16"), ("bn_act G bn_act D", "--no-memory --batch 64")]
    assert len(re.findall(r"^asked: .*--compile", output, re.MULTILINE)) == 1
    status, output, _ = gpu_sh("--parts", "compile")
    assert status == 0 and len(re.findall(r"^asked: .*--compile", output, re.MULTILINE)) == 5


def test_nothing_runs_without_a_build(gpu_sh):
    status, output, _ = gpu_sh("--parts", "check,ops", FAIL="setup.py")
    assert status == 1 and "skipped  check,ops (nothing was built)" in output and "gpu_check" not in output


def test_what_does_not_fit_is_left_for_another_call(gpu_sh):
    status, output, _ = gpu_sh("--parts", "check,compile", "--seconds", "62", SLOW="gpu_check.py", SLEEP="3.1")
    assert status == 0, output  # of a part's 240 s there has to be a quarter: it is there at first, 3 s later it is not
    assert "put off  compile_dcgan-bfloat16 (5" in output and "passed   check" in output
    assert re.search(r"^next: benchmarks/gpu.sh --parts compile /", output, re.MULTILINE)


def test_a_part_over_its_time(gpu_sh):
    status, output, _ = gpu_sh("--parts", "penalty", LATE="tf32")
    assert status == 1 and "passed   penalty-bfloat16" in output and "TIMEOUT  penalty-tf32 (over 40 s)" in output


def test_missing_tools_and_wrong_options(gpu_sh):
    assert gpu_sh(without=("nvidia-smi",))[0] == 2
    status, output, _ = gpu_sh("--parts", "ncu,sanitize", without=("ncu", "compute-sanitizer"))
    assert status == 0 and "skipped  ncu (not on PATH)" in output and "skipped  sanitize (no" in output
    status, output, _ = gpu_sh("--parts", "check,stpes")
    assert status == 2 and "there is no part stpes; there are layouts,check,sanitize," in output
    assert gpu_sh("--part", "check")[0] == 2
    status, output, _ = gpu_sh(FAIL="is_available")
    assert status == 2 and "has no torch that sees it; set PYTHON" in output
