#!/bin/sh
# Train the bundled model: sh training/fable.sh GENLM CORPUS, or `make fable`. An interrupted run is resumed.
set -eu
genlm=$1 corpus=$2 out=build/fable here=$(dirname "$0")

resume=
test -f "$out/training.json" && resume=--resume

"$genlm" train "$corpus/train" --valid "$corpus/valid" -o "$out" $resume \
    --n-layer 6 --n-embd 320 --n-head 5 --n-positions 512 --vocab-size 4096 \
    --max-steps 5000 --batch-size 8 --optimizer muon --learning-rate 4e-3 --warmup-steps 150 --dropout 0 \
    --eval-every 500 --save-every 250 --dtype bfloat16 --save-dtype float16 --card "$here/fable-card.md"

for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json README.md; do
    cp "$out/$file" "$here/../genlm/model/bundled/fable/$file"
done
cp "$out/log.jsonl" "$here/fable-log.jsonl"
cp "$out/loss.png" "$here/fable-loss.png"
