#!/bin/sh
# Everything that a GPU machine should be asked, in one go of at most eight minutes: builds (or uses what is built),
# tests, sanitizes, measures, compares, and writes a report in Markdown. A step that fails or runs out of its time is told
# and the next one begins. Without a device it says what it skips. A build with -DQ3_CUDA=emulate is taken through the
# same steps with tiny shapes, to see whether this script works.
# usage: check.sh [REPORT [BUILD_DIR]]     default: build-gpu/report.md build-gpu
# Environment: Q3_CHECK_SECONDS  of all steps, 480
#              Q3_CHECK_ONLY     of: build tests golden sanitizer kernels steps decode bits peer
#              Q3_CHECK_MODELS   of: 8b 4b 2b tiny
set -u
cd "$(dirname "$0")/../.." || exit 1
report=${1:-build-gpu/report.md}
build=${2:-build-gpu}
seconds=${Q3_CHECK_SECONDS:-480}
only=${Q3_CHECK_ONLY:-build tests golden sanitizer kernels steps decode bits peer}
models=${Q3_CHECK_MODELS:-8b 4b 2b}
began=$(date +%s)
failed=0
logs=$build/check-logs
rm -rf "$logs"
mkdir -p "$logs" "$(dirname "$report")"
body=$logs/body.md
summary=$logs/summary.md
: >"$body"
: >"$summary"
[ ! -d /usr/local/cuda/bin ] || PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
export PATH

wanted() {
    case " $only " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

skip() { # NAME why
    echo "-- $1: skipped: $2"
    echo "| $1 | skipped: $2 | |" >>"$summary"
}

show() { # NAME COMMAND RESULT LOG
    # shellcheck disable=SC2016 # backticks of Markdown
    printf '## %s\n\n`%s`: %s\n\n```\n%s\n```\n\n' "$1" "$2" "$3" "$(tail -n 80 "$4" | cut -c 1-240)" >>"$body"
}

left() { # seconds of this run
    echo $((seconds - ($(date +%s) - began)))
}

# step NAME SECONDS COMMAND...: the last lines of its output go to the report; 0 when it has worked
step() {
    name=$1
    limit=$2
    shift 2
    now=$(left)
    if [ "$now" -lt 5 ]; then
        skip "$name" "the $seconds s of this run are used up"
        return 1
    fi
    [ "$limit" -le "$now" ] || limit=$now
    log=$logs/$(echo "$name" | tr -c 'a-zA-Z0-9\n' '-').txt
    start=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$log" 2>&1
    code=$?
    took=$(($(date +%s) - start))
    result=ok
    [ "$code" = 0 ] || result="FAILED with code $code"
    case $code in 124 | 137) result="STOPPED after $limit s" ;; esac
    echo "-- $name: $result, $took s"
    echo "| $name | $result | $took |" >>"$summary"
    show "$name" "$*" "$result, $took s" "$log"
    if [ "$code" != 0 ]; then
        failed=$((failed + 1))
        tail -n 5 "$log"
    fi
    return "$code"
}

environment() {
    nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap,power.limit --format=csv,noheader 2>/dev/null ||
        echo "no card: nvidia-smi finds none"
    nvcc --version 2>&1 | tail -n 2
    cmake --version 2>&1 | head -n 1
    cc --version 2>&1 | head -n 1
    echo "cores: $(nproc), $(uname -rm)"
    python3 -c 'import torch; print("torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())' 2>&1 | tail -n 1
    git log -1 --format='commit %h: %s' 2>/dev/null
}

environment >"$logs/environment.txt"
cat "$logs/environment.txt"
show environment environment "" "$logs/environment.txt"

device=none
! nvidia-smi >/dev/null 2>&1 || device=real
if grep -q '^Q3_CUDA:[A-Z]*=emulate' "$build/CMakeCache.txt" 2>/dev/null; then
    device=emulated
    models=tiny
    export Q3_CUDA_EMU_DEVICES=1 Q3_LIBRARY_PATH="$PWD/$build/libraries"
fi
echo "-- device: $device"

# ---- build ----

if [ "$device" = emulated ] || ! wanted build; then
    skip build "$build as it is"
elif ! command -v nvcc >/dev/null || ! command -v cmake >/dev/null; then
    skip build "no nvcc or no cmake here; $build as it is"
else
    step build 300 sh tests/gpu/build.sh "$build"
fi
program=$build/qwen3-sft
bench=$build/tests/bench
if [ -x "$program" ]; then
    step version 20 "$program" version
else
    skip "everything else" "$program was not built"
    device=none
fi
if [ "$device" = none ]; then
    [ ! -x "$program" ] || step "registers" 20 sh tests/gpu/check_registers.sh "$build"
    for what in tests golden sanitizer kernels steps decode bits peer; do
        ! wanted "$what" || skip "$what" "there is no device here"
    done
    only=
fi

# ---- is it right? ----

if wanted tests; then
    step "tests" 120 sh -c "cd '$build' && ctest -L cuda --output-on-failure --no-tests=error -j 2"
fi

steps_of=
[ "$device" != emulated ] || steps_of=train.max_steps=4
train() { # NAME BOUND setting...: the small training of the golden files, its losses against those of the CPU
    out=$build/check-$1
    bound=$2
    what="golden training, $1"
    rm -rf "$out"
    shift 2
    # shellcheck disable=SC2086 # may be no word
    step "$what" 40 "$program" train --config tests/golden/training/config.json train.output_dir="$out" $steps_of "$@" &&
        [ "$bound" != 0 ] && step "$what, losses" 10 awk -v bound="$bound" -f tests/gpu/losses.awk "$build/check-cpu/metrics.jsonl" "$out/metrics.jsonl"
}
if wanted golden; then
    train cpu 0 model.device=cpu
    train float32 1e-4 model.device=cuda model.dtype=float32 # errors grow over the steps
    train bfloat16 2e-2 model.device=cuda
fi

sanitize() { # TOOL COMMAND...
    tool=$1
    shift
    step "compute-sanitizer $tool, $(basename "$1")" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 "$@"
}
if wanted sanitizer; then
    if [ "$device" = emulated ] || ! command -v compute-sanitizer >/dev/null; then
        skip "compute-sanitizer" "not found, or nothing for it"
    else
        for tool in memcheck racecheck synccheck; do
            sanitize "$tool" "$bench/bench_kernels" --model tiny --tokens 32 --times 1
            sanitize "$tool" "$bench/bench_step" --model tiny --device cuda --tokens 64 --row 32 --steps 1 --probe no
        done
    fi
fi

# ---- how fast is it? ----

shape() { # sets the options of a step: MODEL TOKENS
    if [ "$1" = tiny ]; then
        size="--model tiny --tokens 64 --row 32"
    else
        size="--model $1 --tokens $2 --row 2048"
    fi
    size="$size --device cuda --picture none --supervised all --dropout 0"
}

first=${models%% *}
if wanted kernels; then
    case $first in
    tiny) step "kernels, tiny" 60 "$bench/bench_kernels" --model tiny --tokens 32 --times 1 ;;
    *) step "kernels, $first" 60 "$bench/bench_kernels" --model "$first" ;;
    esac
fi

# shellcheck disable=SC2086 # $size is words, here and below
if wanted steps; then
    for model in $models; do
        shape "$model" 8192
        step "step $model, 8192 tokens" 40 "$bench/bench_step" $size --steps 4
    done
    shape "$first" 16384
    step "step $first, 16384 tokens" 40 "$bench/bench_step" $size --steps 3 --probe no
    step "step $first, 16384 tokens, copies kept" 40 "$bench/bench_step" $size --steps 3 --probe no --cache on
    shape "$first" 2048
    step "step $first, 2048 tokens" 40 "$bench/bench_step" $size --steps 5 --probe no
    shape "$first" 8192
    step "step $first, 8192 tokens, own attention" 40 "$bench/bench_step" $size --steps 3 --probe no --attention flash
    step "step $first, 8192 tokens, all layers run again" 40 "$bench/bench_step" $size --steps 3 --probe no --checkpointing full
fi

if wanted decode; then
    prompt="--prompt 512 --new 64"
    [ "$first" != tiny ] || prompt="--prompt 8 --new 4"
    for batch in 1 8 32; do
        # shellcheck disable=SC2086
        step "decode $first, batch $batch" 40 "$bench/bench_step" --model "$first" --device cuda --probe no --decode $batch $prompt
    done
fi

# ---- same inputs, same bits? ----

bits() { # the hash that a run of these options prints
    timeout -k 5 "$(($(left) > 1 ? $(left) : 1))" "$bench/bench_step" "$@" --probe no | sed -n 's/^bits *//p'
}
# shellcheck disable=SC2086
same_bits() {
    shape "$first" 2048
    once=$(bits $size --steps 2 --dropout 0.05)
    again=$(bits $size --steps 2 --dropout 0.05)
    kept=$(bits $size --steps 2 --dropout 0.05 --cache on)
    layers=$(bits $size --steps 2 --dropout 0.05 --checkpointing full)
    echo "once          $once"
    echo "again         $again"
    echo "copies kept   $kept"
    echo "layers again  $layers"
    [ -n "$once" ] && [ "$once" = "$again" ] && [ "$once" = "$kept" ] && [ "$once" = "$layers" ]
}
if wanted bits; then
    start=$(date +%s)
    result="the same"
    same_bits >"$logs/bits.txt" 2>&1 || result="NOT the same"
    [ "$result" = "the same" ] || failed=$((failed + 1))
    echo "-- bits: $result"
    echo "| bits of two runs, with copies kept, with layers run again | $result | $(($(date +%s) - start)) |" >>"$summary"
    show "same inputs, same bits" "bench_step, 2 steps and dropout" "$result" "$logs/bits.txt"
fi

# ---- and the others? ----

if wanted peer; then
    ours=$(sed -n 's/^median.*, \([0-9.]*\) tokens\/s.*/\1/p' "$logs/step-$first--8192-tokens.txt" 2>/dev/null | head -n 1)
    if [ "$device" = emulated ]; then
        skip peer "the device is emulated"
    elif ! python3 -c 'import torch, transformers, peft' 2>/dev/null; then
        skip peer "python3 cannot import torch, transformers and peft"
    else
        step "peer $first" 120 python3 tests/gpu/peer_step.py --model "$first" --tokens 8192 --ours "${ours:-0}"
    fi
fi

{
    echo "# Check on a GPU machine, $(date -u '+%Y-%m-%d %H:%M') UTC"
    echo
    echo "Device: $device. $failed of the steps failed; $(($(date +%s) - began)) s in all."
    echo
    echo "| step | result | s |"
    echo "|---|---|---|"
    cat "$summary"
    echo
    cat "$body"
} >"$report"
echo "-- report: $report; $failed failed"
[ "$failed" = 0 ]
