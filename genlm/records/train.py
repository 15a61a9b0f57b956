"""What a training run is about, how it stands and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainFacts:
    """What a training run is about. Bytes are of UTF-8; `per` is what a document is.

    `entropy` is the least mean loss, nats a token, that the texts allow, where they are few enough to tell.
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
    """How a training run stands after a step.

    Losses are mean nats a token: `loss` over the steps since the report before, `valid_loss` over held-out text, only
    where an evaluation was made. `progress` is from 0 to 1; `seconds` counts what earlier sessions took, too.
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
    """What a training run came to. The losses are of the weights in the folder, on all the held-out text."""

    step: int
    tokens: int
    seconds: float
    best_step: int
    stopped_early: bool
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None
