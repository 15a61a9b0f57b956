"""What may come next after a prompt, and how likely."""

from __future__ import annotations

from dataclasses import dataclass, field

from genlm.decoding.strategy import Strategy
from genlm.model.info import ModelInfo
from genlm.records.made_by import MadeBy


@dataclass(frozen=True)
class Candidate:
    """A token that may come next, by rank from 1. `filtered` is its probability under a strategy, 0 if cut."""

    rank: int
    id: int
    text: str
    probability: float
    logprob: float
    filtered: float | None = None
    bytes: bytes | None = None


@dataclass(frozen=True)
class Filtered:
    """What a strategy makes of the next token's distribution.

    `kept` tokens are left of `kept + cut`; the `cut` ones held `cut_probability`, the likeliest of them first in
    `likeliest_cut`. `entropy` is of what is left, in nats.
    """

    strategy: Strategy
    entropy: float
    kept: int
    cut: int
    cut_probability: float
    likeliest_cut: tuple[Candidate, ...]


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token: its entropy (nats) and its likeliest `candidates`."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    vocab_size: int
    entropy: float
    candidates: tuple[Candidate, ...]
    filtered: Filtered | None = None
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)


@dataclass(frozen=True)
class ContinuationToken:
    """A token of a given continuation, with its log-probability after those before it (nats).

    `filtered` is the same under a strategy: minus infinity where it cuts the token.
    """

    id: int
    text: str
    logprob: float
    filtered: float | None = None


@dataclass(frozen=True)
class Continuation:
    """A given continuation of a prompt; `share` is its part of the probability of all that were given."""

    rank: int
    text: str
    tokens: tuple[ContinuationToken, ...]
    share: float

    @property
    def logprob(self) -> float:
        """log p(continuation | prompt), nats."""
        return sum(token.logprob for token in self.tokens)

    @property
    def filtered(self) -> float | None:
        """The same under a strategy."""
        parts = [token.filtered for token in self.tokens if token.filtered is not None]
        return sum(parts) if parts else None


@dataclass(frozen=True)
class Comparison:
    """Given continuations of a prompt, the likeliest first; `entropy` is the next token's, in nats."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    entropy: float
    strategy: Strategy | None
    continuations: tuple[Continuation, ...]
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)


@dataclass(frozen=True)
class Branch:
    """A token on the way from a prompt: `logprob` after those before it, `path_logprob` with theirs, in nats."""

    id: int
    text: str
    logprob: float
    path_logprob: float
    ends: bool
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Tree:
    """The likeliest ways on from a prompt, `steps` tokens far."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    strategy: Strategy | None
    steps: int
    entropy: float
    branches: tuple[Branch, ...]
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)
