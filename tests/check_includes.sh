#!/bin/sh
# Arrows point down only: checks every #include "..." against the drawing of the rooms (docs/architecture.md).
# Prints each arrow that points up, and fails if there is one.
set -eu
awk '
BEGIN { # what a room may include besides itself; inside core, a file only what stands before it
    may["cli"] = "train eval serve infer collate data optim model core kernels"
    may["train"] = "eval infer collate data optim model core kernels"
    may["eval"] = "infer collate data model core"
    may["serve"] = "infer collate data model core kernels"
    may["infer"] = "collate data model core kernels"
    may["collate"] = "data model core"
    may["data"] = "core"
    may["model"] = "core kernels"
    may["optim"] = "core kernels"
    may["core"] = "kernels"
    may["kernels"] = ""
    n = split("status log arena group rng file json safetensors quantized device tensor op_list op profile tape", order, " ")
    for (i = 1; i <= n; i++)
        rank[order[i]] = i
}
function rank_of(stem) { return stem in rank ? rank[stem] : 99 } # ops.h and core/ops/ stand on all of them
function stem_of(path) { sub(/.*\//, "", path); sub(/\.[ch]$/, "", path); return path }
FNR == 1 { files++ }
/^ *#include "/ {
    split($0, quoted, "\"")
    include = quoted[2]
    room = FILENAME; sub(/\/.*/, "", room)
    target = include; sub(/\/.*/, "", target)
    if (target != room && index(" " may[room] " ", " " target " ") == 0) {
        print FILENAME " includes " include ": an arrow that points up or sideways"; bad = 1
    }
    if (room == "core" && target == "core" && rank_of(stem_of(include)) > rank_of(stem_of(FILENAME)) ) {
        print FILENAME " includes " include ": it stands on " FILENAME; bad = 1
    }
}
END {
    if (files < 100) { print "only " files " files found; run this in the root of the tree"; bad = 1 }
    exit bad
}' $(find cli train eval serve infer collate data optim model core kernels -name '*.[ch]')
