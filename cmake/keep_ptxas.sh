#!/bin/sh
# Runs a compiler of CUDA and keeps what ptxas says of registers and spills in <object>.ptxas; the rest is shown.
# usage: keep_ptxas.sh COMPILER ARGUMENTS...
set -u
object=
previous=
for argument; do
    [ "$previous" = -o ] && object=$argument
    previous=$argument
done
log=${object:-/dev/null}.ptxas
[ -n "$object" ] || log=/dev/null
"$@" 2>"$log"
code=$?
[ "$log" = /dev/null ] || grep -v 'ptxas info\|bytes stack frame\|^ *$' "$log" >&2
exit $code
