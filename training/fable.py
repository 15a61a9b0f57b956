"""The recipe of the bundled model: `python training/fable.py CORPUS VALID OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from genlm.tasks.train import Schedule, Shape, train

SHAPE = Shape(n_layer=6, n_embd=320, n_head=5, n_positions=512, vocab_size=4096)
SCHEDULE = Schedule(max_steps=3200, batch_size=8, learning_rate=1.5e-3, warmup_steps=150, eval_every=400, compiled=True)


def main() -> None:
    corpus, valid, out = map(Path, sys.argv[1:])
    for report in train([corpus], [valid], out, SHAPE, SCHEDULE):
        print(report, flush=True)


if __name__ == "__main__":
    main()
