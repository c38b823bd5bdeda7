#!/usr/bin/env bash
# Builds, checks, tests and times fastgan on a machine with an NVIDIA GPU: within ten minutes, without network, with the torch
# that is installed there. Needs python3 with torch, pybind11, ninja, setuptools and pytest; nvcc; g++.
#
#     benchmarks/gpu.sh [RESULTS_FOLDER]          default: benchmarks/results
#
# Writes RESULTS_FOLDER/<gpu name>/<date>-<commit>.json (timings and their environment), -check.json (every case of
# gpu_check.py) and .log (all output). PYTHON chooses the interpreter. A part that fails does not stop the others.
# Exit status: 0 all passed, 1 something failed, 2 no GPU.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
results=$(mkdir -p "${1:-$root/benchmarks/results}" && cd "${1:-$root/benchmarks/results}" && pwd) || exit 1
cd "$root" || exit 1

if ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || [ -z "$gpu" ]; then
  echo "gpu.sh: no GPU (nvidia-smi lists none); nothing was built, checked or timed"
  exit 2
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: $gpu is there, but $python has no torch that sees it; set PYTHON to one that does"
  exit 2
fi

commit=${FASTGAN_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo nocommit)}
stem=$(date -u +%Y-%m-%d)-$commit
folder=$results/$(tr -cs 'A-Za-z0-9.\n' '-' <<<"$gpu")
mkdir -p "$folder"
log=$folder/$stem.log
: >"$log"
summary=()
failed=0

# part NAME SECONDS COMMAND...: runs it under a time limit, into the log and the screen, and remembers how it ended.
part() {
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  case $status in
    0) summary+=("passed   $name ($((SECONDS - began)) s)") ;;
    124 | 137) summary+=("TIMEOUT  $name (over $limit s)"); failed=1 ;;
    *) summary+=("FAILED   $name (exit status $status)"); failed=1 ;;
  esac
  return "$status"
}

skip() { summary+=("skipped  $1"); }

environment() {
  nvidia-smi --query-gpu=index,name,driver_version,memory.total,clocks.sm,temperature.gpu --format=csv
  nvcc --version | tail -n 2
  "$python" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())'
}
export -f environment
export python

build() {
  FASTGAN_BUILD=require FASTGAN_CUDA=require "$python" setup.py build_ext --inplace &&
    "$python" -c 'import fastgan._C as c; print(c.build_info())'
}
export -f build

export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
part environment 30 bash -c environment
if part build 180 bash -c build; then
  part check 120 "$python" benchmarks/gpu_check.py --out "$folder/$stem-check.json"
  if command -v compute-sanitizer >/dev/null; then
    # without torch's own caching, so that an access outside one tensor is outside every allocation
    part memcheck 90 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
      "$python" benchmarks/gpu_check.py --only bn_stats penalty clip
  else
    skip "memcheck (no compute-sanitizer on PATH)"
  fi
  part bench 200 "$python" -m fastgan bench --device cuda --impl kernel --out "$folder/$stem.json"
  limit=$((570 - SECONDS))
  if [ "$limit" -gt 30 ]; then
    part tests "$limit" "$python" -m pytest -q -x tests/ops tests/nn -p no:cacheprovider
  else
    skip "tests (ten minutes are over)"
  fi
else
  skip "check, memcheck, bench, tests (nothing was built)"
fi

printf '\n== %s, commit %s: %d s, output in %s\n' "$gpu" "$commit" "$SECONDS" "$folder" | tee -a "$log"
printf '%s\n' "${summary[@]}" | tee -a "$log"
exit "$failed"
