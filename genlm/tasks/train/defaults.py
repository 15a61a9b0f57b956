"""What a run is like where nothing else was asked for, by the size of its corpus."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from genlm.errors import UsageError
from genlm.tasks.train.settings import Recipe, Shape
from genlm.tasks.train.texts import SMALL

SIZES = {
    "tiny": Shape(n_layer=2, n_embd=64, n_head=2, n_positions=128, vocab_size=512),
    "small": Shape(n_layer=4, n_embd=128, n_head=4, n_positions=256, vocab_size=1024),
    "medium": Shape(n_layer=6, n_embd=320, n_head=5, n_positions=512, vocab_size=4096),
    "large": Shape(n_layer=12, n_embd=512, n_head=8, n_positions=512, vocab_size=8192),
    "gpt2": Shape(n_layer=12, n_embd=768, n_head=12, n_positions=1024, vocab_size=50_257),
}
# As in all of GPT-2's sizes.
HEAD_WIDTH = 64
# Evaluations in a run that is not told otherwise.
EVALUATIONS = 12
UNCLOCKED_EVERY = 250
# A rough guess, before there is a tokenizer.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class Default:
    """How a corpus below `bytes` is trained on: from scratch, and where a trained model goes on (`tuning_*`)."""

    bytes: float
    size: str
    max_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    dropout: float
    tuning_steps: int
    tuning_rate: float = 1e-4
    tuning_batch_size: int = 4


DEFAULTS = (
    Default(SMALL, "tiny", 400, 64, 3e-3, 10, 0.0, 60),
    Default(1_000_000, "small", 1500, 16, 2e-3, 50, 0.1, 300),
    Default(float("inf"), "medium", 3000, 8, 1.5e-3, 100, 0.1, 1000),
)


def default_for(num_bytes: int) -> Default:
    """What goes for a corpus of this size."""
    return next(row for row in DEFAULTS if num_bytes < row.bytes)


def choose_shape(num_bytes: int, size: str | None, given: dict[str, int]) -> Shape:
    """Return the shape of this size, or of the default for the corpus, with the given numbers replaced.

    Raises:
        UsageError: there is no such size, or the numbers make no model.
    """
    name = size or default_for(num_bytes).size
    if name not in SIZES:
        raise UsageError(f"no size {name!r}", hint="the sizes are " + ", ".join(SIZES))
    numbers = asdict(SIZES[name]) | given
    if "n_embd" in given and "n_head" not in given:
        numbers["n_head"] = _heads(given["n_embd"])
    return Shape(**numbers)


def _heads(width: int) -> int:
    """The most heads of at least the usual width."""
    return next((count for count in range(width // HEAD_WIDTH, 1, -1) if width % count == 0), 1)


def choose_recipe(num_bytes: int, held_bytes: int, context: int, *, is_tuning: bool, given: dict[str, Any]) -> Recipe:
    """The recipe for a corpus of this size and rows of `context` tokens, with what was given in its place.

    A limit in minutes alone is the only limit. Raises UsageError for what makes no sense.
    """
    row = default_for(num_bytes)
    settings: dict[str, Any] = {
        "max_steps": row.tuning_steps if is_tuning else row.max_steps,
        "batch_size": row.tuning_batch_size if is_tuning else row.batch_size,
        "learning_rate": row.tuning_rate if is_tuning else row.learning_rate,
        "warmup_steps": row.warmup_steps,
        "dropout": None if is_tuning else row.dropout,
    }
    if "max_minutes" in given and "max_steps" not in given:
        settings["max_steps"] = None
    settings |= given
    recipe = Recipe(**settings)
    if "eval_every" in given:
        return recipe
    return replace(recipe, eval_every=_eval_every(recipe, held_bytes, context))


def _eval_every(recipe: Recipe, held_bytes: int, context: int) -> int:
    """So often that there are enough evaluations in a run, but that none sees more tokens than the steps before it."""
    seen = min(recipe.eval_tokens, held_bytes // BYTES_PER_TOKEN)
    least = math.ceil(seen / (recipe.batch_size * recipe.accumulate * context))
    wanted = recipe.max_steps // EVALUATIONS if recipe.max_steps else UNCLOCKED_EVERY
    return max(1, wanted, least)
