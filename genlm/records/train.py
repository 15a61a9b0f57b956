"""The facts, reports and result of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainFacts:
    """The facts of a training run that are known at its start. Bytes are those of UTF-8.

    `per` is "line" or "file": the unit that is a document. `entropy` is the lowest possible mean loss (nats a token) if
    the corpus is small, otherwise None.
    """

    base: str | None
    architecture: str
    parameters: int
    layers: int
    width: int
    heads: int
    context: int
    tokenizer: str
    vocab_size: int
    num_files: int
    num_documents: int
    num_bytes: int
    num_tokens: int
    per: str
    held_documents: int
    held_bytes: int
    entropy: float | None
    recipe: dict[str, Any]
    save_dtype: str
    device: str


@dataclass(frozen=True)
class TrainReport:
    """The state of a training run after a step.

    Losses are means in nats a token: `loss` over the steps since the last report, `valid_loss` over held-out text if
    there was an evaluation. `progress` is from 0 to 1. `seconds` includes the time before an interruption.
    """

    step: int
    epoch: int
    tokens: int
    seconds: float
    progress: float
    loss: float
    bits_per_byte: float
    learning_rate: float
    tokens_per_s: float
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None
    sample: str | None = None


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run. `valid_loss` is that of the weights in the folder on all of the held-out text."""

    step: int
    tokens: int
    seconds: float
    best_step: int
    stopped_early: bool
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None
