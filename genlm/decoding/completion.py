"""What the loops yield: a mark once the prompt is encoded, pieces of text, and each completion as it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["length", "eos", "stop"]


@dataclass(frozen=True)
class Prefilled:
    """The prompt is encoded: what follows is decoding."""


@dataclass(frozen=True)
class Piece:
    """Text that completion `index` has grown by."""

    index: int
    text: str


@dataclass(frozen=True)
class Completion:
    """The generated part of one sequence.

    `token_ids` are all tokens that were generated: with the end-of-text token that ended it (which has no text),
    and with those of a stop text (which `text` is cut before). `logprob` is the sum of the model's own
    log-probabilities of these tokens, before any filter, in nats.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float


Event: TypeAlias = Prefilled | Piece | Completion
