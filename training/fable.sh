#!/bin/sh
# The recipe of the bundled model: sh training/fable.sh GENLM CORPUS OUT, or `make fable`.
set -eu
exec "$1" train "$2/train" --valid "$2/valid" -o "$3" \
    --n-layer 6 --n-embd 320 --n-head 5 --n-positions 512 --vocab-size 4096 \
    --max-steps 3200 --batch-size 8 --learning-rate 1.5e-3 --warmup-steps 150 \
    --eval-every 400 --save-every 200 --compile --save-dtype float16
