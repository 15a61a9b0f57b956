"""The events of a request: its prompt is prefilled, its sequences grow, and each ends as a completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["length", "eos", "stop"]
# In a class with a field of that name, `bytes` is the field, and its annotation cannot be evaluated.
Bytes: TypeAlias = bytes


@dataclass(frozen=True)
class Prefilled:
    """The prompt is prefilled; decode steps follow."""


@dataclass(frozen=True)
class Piece:
    """Text that was added to completion `index`."""

    index: int
    text: str


@dataclass(frozen=True)
class Alternative:
    """A likely token and its probability. For `bytes` see TracedToken."""

    id: int
    text: str
    probability: float
    bytes: Bytes | None = None


@dataclass(frozen=True)
class TracedToken:
    """A generated token under the model's own distribution, before any logits processor.

    `rank` 1 is the most likely token; `logprob` and `entropy` are in nats. The strategy's logits processors
    left `candidates` tokens, with a fraction `mass` of the probability. `alternatives` are the most likely tokens,
    whether or not this one is among them. `bytes` is set if the token holds only part of a character.
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
    bytes: Bytes | None = None


@dataclass(frozen=True)
class Completion:
    """The generated part of one sequence.

    `token_ids` are all generated tokens, including an end-of-text token (which has no text) and the tokens of a stop
    text (`text` is cut before it). `logprob` is the sum of the model's log-probabilities of these tokens, before any
    logits processor, in nats. `trace` has an entry for each token if a trace was requested.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float
    trace: tuple[TracedToken, ...] | None = None


@dataclass(frozen=True)
class Failed:
    """The request failed with `error`; no more completions follow."""

    error: Exception


Event: TypeAlias = Prefilled | Piece | Completion
