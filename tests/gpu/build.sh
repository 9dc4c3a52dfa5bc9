#!/bin/sh
# Builds the program, the tests of the CUDA backend and the benchmarks with nvcc: for the machine's own device where there
# is one, else for the default architectures. Libraries come from build-bundle/ (bundle.sh) where that is there.
# usage: build.sh [BUILD_DIR]      Q3_CUDA_ARCHITECTURES overrides
set -eu
cd "$(dirname "$0")/../.."
build=${1:-build-gpu}
bundle=$PWD/build-bundle
[ ! -d /usr/local/cuda/bin ] || PATH=$PATH:/usr/local/cuda/bin
if [ -d "$bundle/lib" ]; then
    command -v pkg-config >/dev/null || PATH=$PATH:$bundle/bin
    export PKG_CONFIG_PATH="$bundle/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
fi
export PATH
nvcc=$(command -v nvcc) || { echo "build: nvcc is not on PATH" >&2 && exit 1; }

set -- -DQ3_CUDA=nvcc -DCMAKE_CUDA_COMPILER="$nvcc" -DCMAKE_BUILD_TYPE=Release -DQ3_TESTS=ON
if [ -n "${Q3_CUDA_ARCHITECTURES:-}" ]; then
    set -- "$@" -DQ3_CUDA_ARCHITECTURES="$Q3_CUDA_ARCHITECTURES"
elif nvidia-smi >/dev/null 2>&1; then
    sm=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    set -- "$@" -DQ3_CUDA_ARCHITECTURES="$sm-real"
fi
if [ -d "$bundle/lib" ]; then # DT_RPATH: also for what the bundle's libraries load themselves
    set -- "$@" -DCMAKE_PREFIX_PATH="$bundle" -DCMAKE_BUILD_RPATH="$bundle/lib" \
        -DCMAKE_EXE_LINKER_FLAGS="-Wl,--disable-new-dtags -Wl,-rpath-link,$bundle/lib"
fi
cmake -S . -B "$build" "$@"
# The tests of the label cuda: name and program differ by a suffix where a test of the CPU is run on the device too.
targets=$(cmake --build "$build" --target help | sed -n 's/^[. ]*\(test_[a-z0-9_]*\)\(:.*\)*$/\1/p')
tests=
for name in $(cd "$build" && ctest -N -L cuda | sed -n 's/.*Test *#[0-9]*: //p'); do
    for target in "test_$name" "test_${name%_cuda}"; do
        if echo "$targets" | grep -qx "$target"; then
            tests="$tests $target"
            break
        fi
    done
done
# shellcheck disable=SC2086 # a word a target
cmake --build "$build" -j "$(nproc)" --target qwen3-sft bench_step bench_kernels $tests
