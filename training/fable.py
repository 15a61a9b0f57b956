"""The recipe of the bundled model: `python training/fable.py CORPUS VALID OUT`, or `make fable`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from genlm.tasks.corpus import find_texts
from genlm.tasks.train import Schedule, Shape, train

SHAPE = Shape(n_layer=6, n_embd=320, n_head=5, n_positions=512, vocab_size=4096)
SCHEDULE = Schedule(max_steps=3200, batch_size=8, learning_rate=1.5e-3, warmup_steps=150, eval_every=400, compiled=True)
LOG = Path(__file__).parent / "fable-log.jsonl"

CARD = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, fairy-tales]
---
# fable

A small GPT-2 that writes fairy-tale English. It comes with genlm so that everything runs without a download:
a model to try decoding strategies on, not one to learn facts from.

| | |
|---|---|
| architecture | GPT-2 (`GPT2LMHeadModel`): {n_layer} layers, width {n_embd}, {n_head} heads, {n_positions} positions |
| parameters | {parameters:,} |
| weights | float16 safetensors, {megabytes:.1f} MB |
| tokenizer | byte-level BPE of its own, {vocab_size:,} entries |
| training data | {books} public-domain children's books and fairy tales from Project Gutenberg, {train_mb:.1f} MB |
| training | {steps:,} steps of {step_tokens:,} tokens ({tokens:.1f} million), {minutes:.0f} minutes on two cores |
| held-out loss | {loss:.3f} nats a token, on two books never trained on ({valid_mb:.2f} MB) |
| held-out bits per byte | {bits:.3f}, sliding window with a stride of half the context |

## What to know

The books are from the nineteenth and early twentieth century, and so are their views of people, peoples, men and
women. Paragraphs with slurs were left out of the training text; what remains is still of its time, and so is what
the model writes. It knows no facts, follows no instructions, and its stories wander.

## How it was made

`make fable CORPUS=...` runs `training/fable.py`, the whole recipe; `training/fable-log.jsonl` is the log of the run
that made these weights, and `training/SOURCES.tsv` says where each book comes from.
"""


def main() -> None:
    corpus, valid, out = map(Path, sys.argv[1:])
    for report in train([corpus], [valid], out, SHAPE, SCHEDULE):
        print(report, flush=True)
    finish(corpus, valid, out)


def finish(corpus: Path, valid: Path, out: Path) -> None:
    """Write the model card, and move the log beside the recipe."""
    shutil.move(out / "log.jsonl", LOG)
    last = json.loads(LOG.read_text().splitlines()[-1])
    (out / "README.md").write_text(card(corpus, valid, out, last))


def card(corpus: Path, valid: Path, out: Path, last: dict[str, float]) -> str:
    """The model card, its figures read off the files and the last line of the log."""
    from safetensors import safe_open

    config = json.loads((out / "config.json").read_text())
    books = find_texts([corpus])
    with safe_open(out / "model.safetensors", framework="pt") as weights:
        names = weights.keys()
        parameters = sum(weights.get_tensor(name).numel() for name in names if name != "lm_head.weight")
    return CARD.format(
        **{key: config[key] for key in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")},
        parameters=parameters,
        megabytes=(out / "model.safetensors").stat().st_size / 1e6,
        books=len(books),
        train_mb=sum(book.stat().st_size for book in books) / 1e6,
        valid_mb=sum(book.stat().st_size for book in find_texts([valid])) / 1e6,
        steps=last["step"],
        step_tokens=int(last["tokens"] / last["step"]),
        tokens=last["tokens"] / 1e6,
        minutes=last["seconds"] / 60,
        loss=last["valid_loss"],
        bits=last["valid_bits_per_byte"],
    )


if __name__ == "__main__":
    main()
