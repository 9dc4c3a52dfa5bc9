#!/bin/sh
# Builds the program twice, under AddressSanitizer and UndefinedBehaviorSanitizer and plain, and passes the tests of both.
# usage: sh packaging/test.sh
. "$(dirname "$0")/setup.sh"
# shellcheck disable=SC2086
q3_install $q3_libraries cmocka:libcmocka-dev git:git

werror=OFF
if [ -n "${CI:-}" ]; then
    werror=ON
fi
targets=
run_tests() { # directory
    (cd "$1" && ctest -L cpu -j "$jobs" --output-on-failure --no-tests=error)
}

echo "building build-sanitize (two or three minutes, when nothing is there yet)"
q3_build build-sanitize -DQ3_WERROR=$werror -DQ3_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Sanitize \
    -DCMAKE_C_FLAGS_SANITIZE="-O1 -g1"
run_tests build-sanitize
echo "building build-test (a minute)"
q3_build build-test -DQ3_WERROR=$werror -DCMAKE_BUILD_TYPE=Release
run_tests build-test
