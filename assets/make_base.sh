#!/bin/sh
# How assets/tiny-base was made: three stages of training every weight of a random start on questions about drawn scenes
# (configs/pretrain-tiny.json). Some 15 minutes on two idle cores with AVX-512, by its step times; elsewhere the last bits
# differ.
# usage: sh assets/make_base.sh [OUT_DIR]       the base is then in OUT_DIR/stage-3/model
set -eu
cd "$(dirname "$0")/.."
out=${1:-runs/tiny-base}
sft=build/qwen3-sft
scenes=build/assets/q3-scenes
[ -x $sft ] && [ -x $scenes ] || { echo "build first: sh packaging/demo.sh" >&2; exit 1; }

stage() { # number, pictures, first seed, further settings
    n=$1 pictures=$2 seed=$3
    shift 3
    [ -e "$out/questions-$n/stamp" ] || $scenes pretrain "$out/questions-$n" --samples "$pictures" --visits 4 --seed0 "$seed"
    $sft --config configs/pretrain-tiny.json data.train="$out/questions-$n/train.jsonl" --output-dir "$out/stage-$n" --resume "$@"
}

stage 1 40000 100000000
# The next ones start from the f32 weights of the former; the last one keeps its learning rate up (docs/demo.md).
stage 2 20000 140000000 model.init=pretrained model.path="$out/stage-1/checkpoint-5000/model" train.max_steps=2500 \
    train.learning_rate=1e-3 train.warmup_steps=50
cp assets/tiny-base/config.json "$out/stage-2/checkpoint-2500/model/" # it names bfloat16: what the last model is written in
stage 3 20000 160000000 model.init=pretrained model.path="$out/stage-2/checkpoint-2500/model" train.max_steps=1000 \
    train.lr_scheduler_type=constant_with_warmup "~train.min_lr_rate" train.learning_rate=1e-3 train.warmup_steps=50
echo "the base: $out/stage-3/model"
