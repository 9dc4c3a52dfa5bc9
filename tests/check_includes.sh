#!/bin/sh
# Arrows point down only: checks every #include "..." against the drawing of the rooms (docs/architecture.md).
# Prints each arrow that points up, and fails if there is one.
set -eu

allowed() { # rooms that the room $1 may include, besides itself
    case $1 in
    cli) echo "train eval infer collate data optim model core kernels" ;;
    train) echo "eval infer collate data optim model core kernels" ;;
    eval) echo "infer collate data model core" ;;
    infer) echo "collate data model core" ;;
    collate) echo "data model core" ;;
    data | model) echo "core kernels" ;;
    optim) echo "core kernels" ;;
    core) echo "kernels" ;;
    kernels) echo "" ;;
    esac
}

ranks="status log arena rng file json safetensors quantized device tensor op_list op tape" # inside core, in this order
rank() {
    n=0
    for r in $ranks; do
        [ "$r" = "$1" ] && { echo $n; return; }
        n=$((n + 1))
    done
    echo 99 # ops.h, op_list.h and the files of core/ops stand on all of them
}

bad=0
for file in $(git ls-files -co --exclude-standard 'cli/*.[ch]' 'train/*.[ch]' 'eval/*.[ch]' 'infer/*.[ch]' 'collate/*.[ch]' \
    'data/*.[ch]' 'optim/*.[ch]' 'model/*.[ch]' 'core/*.[ch]' 'kernels/*.[ch]' 2>/dev/null || true); do
    [ -f "$file" ] || continue
    room=${file%%/*}
    stem=$(basename "$file" | sed 's/\.[ch]$//')
    for include in $(sed -n 's/^ *#include "\([^"]*\)".*/\1/p' "$file"); do
        target=${include%%/*}
        case " $room $(allowed "$room") " in
        *" $target "*) ;;
        *) echo "$file includes $include: an arrow that points up or sideways"; bad=1 ;;
        esac
        if [ "$room" = core ] && [ "$target" = core ]; then
            other=$(basename "$include" .h)
            if [ "$other" != "$stem" ] && [ "$(rank "$other")" -gt "$(rank "$stem")" ]; then
                echo "$file includes $include: core/$other stands on core/$stem"; bad=1
            fi
        fi
    done
done
exit $bad
