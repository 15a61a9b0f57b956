"""Measure how much quality the smaller dtypes lose: `python benchmarks/quality.py`.

The bundled model scores tales (bits per byte) and continues them greedily from many positions. The tokens are compared
with those of float32: the most likely token at each position of the text by float32, and how long the texts stay the
same.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

warnings.simplefilter("ignore")

import genlm  # noqa: E402
from genlm.records.inspection import Tally  # noqa: E402

TALES = Path(__file__).parent.parent / "prompts" / "tales.txt"
EVERY_WORDS = 3
NEW = 64
DTYPES = ("float32", "bfloat16", "int8")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fable")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=Path, default=TALES, help="a file with one text per line")
    arguments = parser.parse_args()
    texts = arguments.texts.read_text().splitlines()
    models = {dtype: genlm.load(arguments.model, device=arguments.device, dtype=dtype) for dtype in DTYPES}
    print("\n".join(table(models, texts)))


def table(models: dict[str, genlm.LanguageModel], texts: list[str]) -> Iterator[str]:
    """Yield the lines of the table, one for each dtype."""
    starts = list(prompts(texts))
    reference = models["float32"]
    written = [greedy(reference, start) for start in starts]
    tokens = sum(len(ids) for _, ids in written)
    yield f"{len(starts)} prompts, {tokens:,} tokens by float32\n"
    yield "| | bits per byte | same choice in the same text | same tokens before the first difference | same texts |"
    yield "|---|---|---|---|---|"
    chosen = [choices(reference, *each) for each in written]
    for dtype, model in models.items():
        same = sum(
            sum(mine == theirs for mine, theirs in zip(choices(model, *each), those, strict=True))
            for each, those in zip(written, chosen, strict=True)
        )
        prefixes = [common(greedy(model, start)[1], ids) for start, (_, ids) in zip(starts, written, strict=True)]
        whole = sum(prefix == len(ids) for prefix, (_, ids) in zip(prefixes, written, strict=True))
        yield (
            f"| {dtype} | {bits_per_byte(model, texts):.4f} | {same / tokens:.2%} | {sum(prefixes) / tokens:.2%} "
            f"| {whole} of {len(starts)} |"
        )


def prompts(texts: list[str]) -> Iterator[str]:
    """Yield beginnings of growing length of each text."""
    for text in texts:
        words = text.split()
        for end in range(EVERY_WORDS, len(words), EVERY_WORDS):
            yield " ".join(words[:end])


def greedy(model: genlm.LanguageModel, prompt: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens of the prompt and of its greedy completion."""
    (completion,) = model.generate(prompt, strategy="greedy", max_new_tokens=NEW).completions
    return tuple(model._model.tokenizer.encode(prompt)), tuple(completion.token_ids)


def choices(model: genlm.LanguageModel, prompt: tuple[int, ...], text: tuple[int, ...]) -> list[int]:
    """Return the most likely token at each position of the text."""
    logits = model._model.network.logits_of([(*prompt, *text)], [0])
    return [int(each) for each in logits[len(prompt) - 1 : -1].argmax(-1)]


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return the length of the longest common beginning of two texts."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def bits_per_byte(model: genlm.LanguageModel, texts: list[str]) -> float:
    """Return the bits per byte of all texts together."""
    return sum((model.score(text).tally for text in texts), Tally()).bits_per_byte or 0.0


if __name__ == "__main__":
    main()
