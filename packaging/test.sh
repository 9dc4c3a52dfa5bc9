#!/bin/sh
# Builds the program under AddressSanitizer and UndefinedBehaviorSanitizer and plain, both with the CUDA kernels emulated on
# the CPU, and passes the tests of both. Where nvcc is found, also builds it for real devices, with what can be tested there.
# usage: sh packaging/test.sh
. "$(dirname "$0")/setup.sh"
# shellcheck disable=SC2086
q3_install $q3_libraries g++:g++ cmocka:libcmocka-dev git:git mpirun:openmpi-bin

werror=OFF
if [ -n "${CI:-}" ]; then
    werror=ON
fi
targets=
run_tests() { # directory, what of ctest chooses
    dir=$1
    shift
    (cd "$dir" && ctest "$@" -j "$jobs" --output-on-failure --no-tests=error)
}

nvcc=
for candidate in nvcc /usr/local/cuda/bin/nvcc; do
    [ -n "$nvcc" ] || nvcc=$(command -v $candidate || true)
done
if [ -n "$nvcc" ]; then
    echo "building build-cuda, for sm_80 and sm_90 (some minutes, when nothing is there yet)"
    q3_build build-cuda -DQ3_WERROR=$werror -DQ3_CUDA=nvcc -DCMAKE_CUDA_COMPILER="$nvcc" -DCMAKE_BUILD_TYPE=Release
    run_tests build-cuda -L cuda
else
    echo "skipped: no nvcc"
fi

echo "building build-sanitize (some minutes, when nothing is there yet)"
q3_build build-sanitize -DQ3_WERROR=$werror -DQ3_CUDA=emulate -DQ3_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Sanitize \
    -DCMAKE_C_FLAGS_SANITIZE="-O1 -g1" -DCMAKE_CXX_FLAGS_SANITIZE="-O1 -g1"
run_tests build-sanitize -LE long
echo "building build-test (two minutes)"
q3_build build-test -DQ3_WERROR=$werror -DQ3_CUDA=emulate -DCMAKE_BUILD_TYPE=Release
run_tests build-test -L 'cpu|cuda'
