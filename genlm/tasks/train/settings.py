"""What a training run is asked to do, as plain data: its model's size and its recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from genlm.errors import UsageError

OptimizerName: TypeAlias = Literal["adamw", "muon"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
# The rate ends at this share of its peak.
LAST_RATE = 0.01
# A token, and one to predict from it and the one before.
LEAST_CONTEXT = 2
# With the number of a step they make one seed of 64 bits.
SEED_BITS = 32


@dataclass(frozen=True)
class Shape:
    """The size of a model to train."""

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
        if self.n_embd % self.n_head:
            raise UsageError(f"n_embd={self.n_embd} cannot be divided among n_head={self.n_head} heads")

    @property
    def parameters(self) -> int:
        """How many numbers a GPT-2 of this shape learns, its head tied to its embedding."""
        block = 12 * self.n_embd**2 + 13 * self.n_embd
        return (self.vocab_size + self.n_positions + 2) * self.n_embd + self.n_layer * block


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    A step goes down the mean gradient of `accumulate` batches of `batch_size` rows. The run ends after `max_steps` or
    `max_minutes`, whichever comes first, or when `patience` evaluations in a row were no better than the best.
    Evaluations on the way score about `eval_tokens` tokens. `dropout` None leaves a model as it is.
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
        if self.seed >= 2**SEED_BITS:
            raise UsageError(f"seed must be below 2^{SEED_BITS}, not {self.seed}")
        for name in ("learning_rate", "max_grad_norm", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} must be greater than 0, not {value}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout}")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done after `step` steps in `seconds`, 0 to 1."""
        by_steps = step / self.max_steps if self.max_steps else 0.0
        by_time = seconds / 60 / self.max_minutes if self.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of a step, counted from 0: linear warm-up, then a cosine down to a hundredth."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * warm * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))
