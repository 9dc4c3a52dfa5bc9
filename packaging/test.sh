#!/bin/sh
# Builds the program twice, plain and under AddressSanitizer + UndefinedBehaviorSanitizer, and passes the tests of both.
# usage: sh packaging/test.sh
. "$(dirname "$0")/setup.sh"
# shellcheck disable=SC2086
q3_install $q3_packages $q3_test_packages

werror=OFF
[ -n "${CI:-}" ] && werror=ON
build() { # directory, further options of cmake
    dir=$1
    shift
    cmake -S . -B "$dir" -DQ3_WERROR=$werror "$@" >/dev/null
    cmake --build "$dir" -j "$jobs" -- --no-print-directory >/dev/null
}

echo "== with sanitizers"
build build-sanitize -DQ3_SANITIZE=address,undefined
(cd build-sanitize && ctest -L cpu -j "$jobs" --output-on-failure --no-tests=error)
echo "== plain"
build build-test
(cd build-test && ctest -L cpu -j "$jobs" --output-on-failure --no-tests=error)
