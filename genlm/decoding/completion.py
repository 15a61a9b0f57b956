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
class Alternative:
    """A token that the model found likely, and its probability; `bytes` as in TracedToken."""

    id: int
    text: str
    probability: float
    bytes: bytes | None = None


@dataclass(frozen=True)
class TracedToken:
    """A generated token under the model's own distribution, before any filter.

    `rank` 1 is the likeliest; `logprob` and `entropy` are in nats. The strategy's filters left `candidates` tokens to
    choose from, which held the part `mass` of the probability. `alternatives` are the likeliest tokens, whether this
    one is among them or not. `bytes` is there for a token that holds only part of a character.
    """

    text: str
    id: int
    logprob: float
    probability: float
    rank: int
    entropy: float
    candidates: int
    mass: float
    alternatives: tuple[Alternative, ...]
    bytes: bytes | None = None


@dataclass(frozen=True)
class Completion:
    """The generated part of one sequence.

    `token_ids` are all tokens that were generated: with the end-of-text token that ended it (which has no text),
    and with those of a stop text (which `text` is cut before). `logprob` is the sum of the model's own
    log-probabilities of these tokens, before any filter, in nats. `trace` has an entry for each token where one was
    asked for.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float
    trace: tuple[TracedToken, ...] | None = None


@dataclass(frozen=True)
class Failed:
    """There will be no completions, and why; of several requests at once the others go on."""

    error: Exception


Event: TypeAlias = Prefilled | Piece | Completion
