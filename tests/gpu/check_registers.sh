#!/bin/sh
# Holds the kernels of an nvcc build to their budgets: none may spill registers or use a stack, none may take more
# registers than tests/gpu/registers.txt allows. What ptxas said lies beside each object (cmake/keep_ptxas.sh).
# usage: check_registers.sh BUILD_DIR            compare, with one sentence for each kernel that is over
#        check_registers.sh --table BUILD_DIR    print file, kernel, sm, registers, stack, spills and shared bytes of all
#        check_registers.sh --list BUILD_DIR     print a list as this build would have it, for registers.txt
set -eu
mode=check
case ${1:-} in --table | --list) mode=${1#--} && shift ;; esac
if [ $# != 1 ] || [ ! -d "$1" ]; then
    echo "usage: check_registers.sh [--table | --list] BUILD_DIR (of a build with -DQ3_CUDA=nvcc)" >&2
    exit 2
fi
here=$(dirname "$0")
list=$here/registers.txt
logs=$(find "$1" -path '*q3_kernels.dir/kernels/*' -name '*.cu.o.ptxas' | LC_ALL=C sort)
if [ -z "$logs" ]; then
    echo "check_registers: $1 has no *.cu.o.ptxas: build its target q3_kernels with nvcc first" >&2
    exit 1
fi
present= # logs of sources that are gone say nothing
for log in $logs; do
    source=$(basename "$log" .cu.o.ptxas)
    [ ! -f "$here/../../kernels/$source.cu" ] || present="$present $log"
done

# shellcheck disable=SC2086 # one word a log
LC_ALL=C awk -v mode="$mode" -v list="$list" -f "$here/registers.awk" $present
