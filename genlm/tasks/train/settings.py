"""The settings of a training run: the model's shape, the recipe, and their defaults by the size of the corpus."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from genlm.errors import UsageError

OptimizerName: TypeAlias = Literal["adamw", "muon"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
SavedType: TypeAlias = Literal["float32", "float16", "bfloat16"]
# The cosine ends at this share of the peak learning rate.
LAST_RATE = 0.01
# A token to predict, and one to predict it from.
LEAST_CONTEXT = 2
# A limit for counts, far beyond what any machine can do.
MOST = 2**31 - 1
# The 64-bit seed of a step has the run's seed in its upper bits and the number of the step in its lower 32.
SEED_BITS = 32
# A corpus smaller than this, in bytes, is read line by line, and each line is trained on separately.
SMALL = 10_000


@dataclass(frozen=True)
class Shape:
    """The size of a new model."""

    n_layer: int
    n_embd: int
    n_head: int
    n_positions: int
    vocab_size: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = LEAST_CONTEXT if name == "n_positions" else 1
            if value < least:
                raise UsageError(f"{name} must be {least} or more, not {value}")
            if value > MOST:
                raise UsageError(f"{name} must be at most {MOST:,}")
        if self.n_embd % self.n_head:
            raise UsageError(f"n_embd={self.n_embd} cannot be divided among n_head={self.n_head} heads")

    @property
    def parameters(self) -> int:
        """The number of parameters of a GPT-2 of this shape, whose head is tied to its embedding."""
        block = 12 * self.n_embd**2 + 13 * self.n_embd
        return (self.vocab_size + self.n_positions + 2) * self.n_embd + self.n_layer * block


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    A step follows the mean gradient of `accumulate` batches of `batch_size` rows. The run ends after `max_steps` or
    `max_minutes`, whichever comes first, or after `patience` evaluations in a row without improvement (if it is not 0).
    Evaluations during the run score about `eval_tokens` tokens. If `dropout` is None, the base model keeps its own.
    """

    max_steps: int | None
    max_minutes: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    dropout: float | None = 0.0
    eval_every: int = 250
    eval_tokens: int = 65_536
    patience: int = 10
    save_every: int = 250
    report_every: int = 10
    seed: int = 0
    dtype: Precision = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise UsageError("a run needs an end: max_steps or max_minutes")
        least = {"max_steps": 1, "batch_size": 1, "accumulate": 1, "eval_every": 1, "eval_tokens": 1, "patience": 0}
        least |= {"save_every": 1, "report_every": 1, "warmup_steps": 0, "weight_decay": 0, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UsageError(f"{name} must be {lowest} or more, not {value}")
            if value is not None and name != "seed" and value > MOST:
                raise UsageError(f"{name} must be at most {MOST:,}")
        if self.seed >= 2**SEED_BITS:
            raise UsageError(f"seed must be below 2^{SEED_BITS}, not {self.seed}")
        for name in ("learning_rate", "max_grad_norm", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be greater than 0, not {value}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout}")

    def progress(self, step: int, seconds: float) -> float:
        """Return which share of the run, from 0 to 1, is done after `step` steps and `seconds`."""
        by_steps = step / self.max_steps if self.max_steps else 0.0
        by_time = seconds / 60 / self.max_minutes if self.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate of a step, from 0: linear warm-up, then a cosine down to `LAST_RATE` of the peak."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * warm * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


SIZES = {
    "tiny": Shape(n_layer=2, n_embd=64, n_head=2, n_positions=128, vocab_size=512),
    "small": Shape(n_layer=4, n_embd=128, n_head=4, n_positions=256, vocab_size=1024),
    "medium": Shape(n_layer=6, n_embd=320, n_head=5, n_positions=512, vocab_size=4096),
    "large": Shape(n_layer=12, n_embd=512, n_head=8, n_positions=512, vocab_size=8192),
    "gpt2": Shape(n_layer=12, n_embd=768, n_head=12, n_positions=1024, vocab_size=50_257),
}
# As in every size of GPT-2.
HEAD_WIDTH = 64
# The default number of evaluations in a run limited by steps, and the steps between them in one limited by time only.
EVALUATIONS = 12
TIMED_EVERY = 250
# A rough guess: the recipe is chosen before there is a tokenizer.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class Default:
    """The default settings for a corpus smaller than `bytes`; those with `tuning_` continue a trained model."""

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
    Default(math.inf, "medium", 3000, 8, 1.5e-3, 100, 0.1, 1000),
)


def default_for(num_bytes: int) -> Default:
    """Return the default settings for a corpus of this size."""
    return next(row for row in DEFAULTS if num_bytes < row.bytes)


def choose_shape(num_bytes: int, size: str | None, given: dict[str, int]) -> Shape:
    """Return the shape of a size, by default the one for the corpus, with the given numbers replaced.

    Raises:
        UsageError: there is no such size, or the numbers do not fit together.
    """
    name = size or default_for(num_bytes).size
    if name not in SIZES:
        raise UsageError(f"no size {name!r}", hint="the sizes are " + ", ".join(SIZES))
    numbers = asdict(SIZES[name]) | given
    if "n_embd" in given and "n_head" not in given:
        width = given["n_embd"]
        # As many heads as possible, each of at least the usual width.
        numbers["n_head"] = next((count for count in range(width // HEAD_WIDTH, 1, -1) if width % count == 0), 1)
    return Shape(**numbers)


def choose_recipe(num_bytes: int, held_bytes: int, context: int, *, is_tuning: bool, given: dict[str, Any]) -> Recipe:
    """Return the recipe for a corpus of this size and rows of `context` tokens, with the given settings replaced.

    A limit in minutes replaces the default limit in steps.

    Raises:
        UsageError: a setting is invalid.
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
    recipe = Recipe(**settings | given)
    if "eval_every" in given:
        return recipe
    # An evaluation scores no more tokens than the steps before it train on.
    eval_tokens = min(recipe.eval_tokens, held_bytes // BYTES_PER_TOKEN)
    least = math.ceil(eval_tokens / (recipe.batch_size * recipe.accumulate * context))
    wanted = recipe.max_steps // EVALUATIONS if recipe.max_steps else TIMED_EVERY
    return replace(recipe, eval_every=max(1, wanted, least))
