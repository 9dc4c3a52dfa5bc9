#!/bin/sh
# Every header compiles alone. usage: check_headers.sh COMPILER
set -eu
bad=0
for header in cli/*.h train/*.h eval/*.h serve/*.h infer/*.h collate/*.h data/*.h optim/*.h model/*.h core/*.h kernels/*.h; do
    [ -f "$header" ] || continue
    case $header in *_list.h | *_simd.h) continue ;; esac # tables and templates, included by their owners only
    "$1" -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -I. $(pkg-config --cflags libcjson) -fsyntax-only -x c "$header" -Wno-unused-function -Wno-psabi || { echo "$header does not compile alone"; bad=1; }
done
exit $bad
