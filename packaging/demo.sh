#!/bin/sh
# Installs what is missing, builds the program, and fine-tunes the tiny model that comes with it.
# usage: sh packaging/demo.sh [options and settings of qwen3-sft train]
. "$(dirname "$0")/setup.sh"
# shellcheck disable=SC2086
q3_install $q3_libraries

how_long="a minute"
if command -v nvcc >/dev/null 2>&1; then
    how_long="some minutes, for CUDA is here"
fi
echo "building build/qwen3-sft and drawing its pictures ($how_long, when nothing is there yet)"
targets="qwen3-sft qwen3-collate-check sarcasm-data"
q3_build build -DCMAKE_BUILD_TYPE=Release -DQ3_TESTS=OFF

set -- build/qwen3-sft --config configs/sarcasm.json "$@"
echo "running $*"
touch build/demo-began
"$@"
report=$(find runs -name report.html -newer build/demo-began 2>/dev/null | head -n 1)
if [ -n "$report" ]; then
    echo "the report: $PWD/$report"
fi
