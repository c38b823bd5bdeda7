#!/usr/bin/env bash
# Builds, checks and times fastgan on a machine with an NVIDIA GPU, without network, with the torch that is installed there.
# Needs python3 with torch, pybind11, ninja, setuptools, pytest, pytest-benchmark and hypothesis; nvcc; g++. Takes
# compute-sanitizer and ncu where they are.
#
#     benchmarks/gpu.sh [--parts NAME,...] [--seconds N] [RESULTS_FOLDER]          default: benchmarks/results
#
# Parts, in this order; the extension is built, or found built, whatever is named. Unless any are named, these:
#     layouts    gpu_layouts.py: operands of wgmma and TMA    penalty    gradient_penalty against double backward
#     check      gpu_check.py: values and situations          graphs     graph_check.py: Trainer(cuda_graph=True)
#     sanitize   memcheck and racecheck over our kernels      ncu        counters of our kernels
#     ops        passes over memory, beside a copy            tests      tests/ops, tests/nn, the optimisers
#     steps      DCGAN and WGAN-GP steps                      networks   DCGAN's generator and discriminator
#     layers_N   DCGAN's layers at batch N: 128 (bfloat16, tf32 and float32) and 1024 (bfloat16)
# and, where they are named:
#     layers_N             the other batches: 16, 64, 256 (bfloat16)
#     layers_N_compile     the same rows in bfloat16 beside torch.compile as well; a batch a call
#     networks_compile, compile       the networks, and the steps, so; these take minutes: each in a call of its own
# Together they may take N seconds (570): a part has a limit of its own, and one that no longer fits is left for another call,
# which the last lines spell out.
#
# Writes into RESULTS_FOLDER/<gpu>/, every name beginning with <date>-<commit>: -check.json, -bench-<part>-<precision>.json,
# .md (those as a table), -ncu.txt, .log (all output). PYTHON chooses the interpreter, FASTGAN_COMMIT names the commit where
# there is no git history. A part that fails does not stop the others.
# Exit status: 0 all passed, 1 something failed, 2 no GPU or a wrong option.
set -uo pipefail

all=layouts,check,sanitize,ops,steps,penalty,graphs,ncu,tests,networks,layers_128,layers_1024
batches="128 1024 16 64 256"
more=layers_16,layers_64,layers_256,networks_compile$(printf ',layers_%s_compile' $batches),compile
parts=$all seconds=570
while [ $# -gt 0 ]; do
  case $1 in
    --parts) parts=${2:?--parts takes names} && shift 2 ;;
    --seconds) seconds=${2:?--seconds takes a number} && shift 2 ;;
    -*) echo "gpu.sh: there is no option $1 (--parts, --seconds)" && exit 2 ;;
    *) break ;;
  esac
done
for name in ${parts//,/ }; do
  case ,$all,$more, in
    *,"$name",*) ;;
    *) echo "gpu.sh: there is no part $name; there are $all,$more" && exit 2 ;;
  esac
done

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

commit=${FASTGAN_COMMIT:-$(git rev-parse --short=10 HEAD 2>/dev/null || echo nocommit)}
folder=$results/$(tr '[:upper:]' '[:lower:]' <<<"$gpu" | tr -cs 'a-z0-9\n' '-')
mkdir -p "$folder"
stem=$folder/$(date -u +%Y-%m-%d)-$commit
log=$stem.log
summary=() later=() failed=0

# part NAME SECONDS COMMAND...: runs it under a time limit, into the log and the screen, and remembers how it ended. Where less
# than a quarter of its time is left, it is put off.
part() {
  local name=$1 limit=$2 began=$SECONDS left=$((seconds - SECONDS)) status
  shift 2
  if [ "$left" -lt $((limit / 4)) ]; then
    summary+=("put off  $name ($left s left)")
    [[ " ${later[*]-} " == *" ${name%%-*} "* ]] || later+=("${name%%-*}")
    return 1
  fi
  [ "$left" -lt "$limit" ] && limit=$left
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

wanted() { [[ ,$parts, == *,$1,* ]]; }
skip() { summary+=("skipped  $1"); }

environment() {
  nvidia-smi
  nvcc --version | tail -n 2
  "$python" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())'
}

build() {
  FASTGAN_BUILD=require FASTGAN_CUDA=require "$python" setup.py build_ext --inplace &&
    "$python" -m fastgan info
}

# bench PART SECONDS PRECISION WORD... [-- OPTION...]: rows of fastgan bench, fastgan's side by its kernels
bench() {
  local name=$1 limit=$2 precision=$3 words=()
  shift 3
  while [ $# -gt 0 ] && [ "$1" != -- ]; do words+=("$1") && shift; done
  part "$name-$precision" "$limit" "$python" -m fastgan.bench --device cuda --impl kernel --dtype "$precision" --only "${words[@]}" \
    --out "$stem-bench-$name-$precision.json" "${@:2}"
}

# sanitize TOOL SECONDS: our kernels alone are watched, where this compute-sanitizer can choose; without torch's own caching, so
# that an access outside one tensor is outside every allocation
sanitize() {
  local ours=(--kernel-name kns=fastgan)
  compute-sanitizer "${ours[@]}" true 2>&1 | grep -qiE 'unknown|invalid|unrecogni' && ours=()
  part "sanitize-$1" "$2" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
    "${ours[@]}" "$python" benchmarks/gpu_check.py --only bn_stats penalty clip
}

export -f environment build
export python PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 FASTGAN_COMMIT=$commit
# what torch.compile tried out is kept for the next call while the machine is
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$root/build/inductor} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$root/build/triton}

part environment 30 bash -c environment
if part build 240 bash -c build; then
  if wanted layouts; then
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
    if [ "$capability" = 9.0 ]; then
      part layouts 60 "$python" benchmarks/gpu_layouts.py
    else
      skip "layouts (compute capability $capability, not 9.0)"
    fi
  fi
  wanted check && part check 200 "$python" benchmarks/gpu_check.py --out "$stem-check.json"
  if wanted sanitize; then
    if command -v compute-sanitizer >/dev/null; then
      sanitize memcheck 60
      sanitize racecheck 60
    else
      skip "sanitize (no compute-sanitizer on PATH)"
    fi
  fi
  if wanted ops; then
    for precision in bfloat16 float32; do bench ops 100 "$precision" channels_last NCHW clip_ -- --no-memory; done
  fi
  if wanted steps; then
    for precision in bfloat16 tf32 float32; do bench steps 80 "$precision" "step dcgan 64" "step wgan-gp"; done
  fi
  if wanted penalty; then
    for precision in bfloat16 tf32; do bench penalty 40 "$precision" gradient_penalty; done
  fi
  wanted graphs && part graphs 120 "$python" benchmarks/graph_check.py
  if wanted ncu; then
    if command -v ncu >/dev/null; then
      part ncu 90 "$python" benchmarks/gpu_counters.py --out "$stem-ncu.txt"
    else
      skip "ncu (not on PATH)"
    fi
  fi
  wanted tests && part tests 150 "$python" -m pytest tests/ops tests/nn tests/test_optim.py -k cuda \
    -p no:cacheprovider --durations=10
  if wanted networks; then
    for precision in bfloat16 tf32; do bench networks 80 "$precision" network; done
  fi
  for batch in $batches; do
    wanted "layers_$batch" || continue
    bench "layers_$batch" 150 bfloat16 "bn_act G" "bn_act D" -- --no-memory --batch "$batch"
    [ "$batch" = 128 ] || continue
    for precision in tf32 float32; do bench "layers_$batch" 120 "$precision" "bn_act G" "bn_act D" -- --no-memory; done
  done
  for batch in $batches; do
    wanted "layers_${batch}_compile" || continue
    bench "layers_${batch}_compile" 500 bfloat16 "bn_act G" "bn_act D" -- --compile --no-memory --batch "$batch"
  done
  wanted networks_compile && bench networks_compile 300 bfloat16 network -- --compile --no-memory
  if wanted compile; then
    for precision in bfloat16 tf32; do
      for step in "step dcgan 64" "step wgan-gp"; do
        bench "compile_$(tr -dc 'a-z' <<<"${step#step }")" 240 "$precision" "$step" -- --compile --no-memory
      done
    done
    bench compile_passes 150 bfloat16 "128x64x32x32 channels_last" -- --compile --no-memory
  fi
  files=("$stem"-bench-*.json)
  [ -e "${files[0]}" ] && part table 30 bash -c '"$python" -m fastgan.bench --table "${@:2}" >"$1" && cat "$1"' table "$stem.md" "${files[@]}"
else
  skip "$parts (nothing was built)"
  failed=1
fi

printf '\n== %s, commit %s: %d s, output in %s\n' "$gpu" "$commit" "$SECONDS" "$folder" | tee -a "$log"
printf '%s\n' "${summary[@]}" | tee -a "$log"
if [ "${#later[@]}" -gt 0 ]; then
  rest=$(IFS=, && echo "${later[*]}")
  echo "next: benchmarks/gpu.sh --parts ${rest//compile_*/compile} $results"
fi
exit "$failed"
