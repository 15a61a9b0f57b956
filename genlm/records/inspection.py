"""The results of `next`, `score`, `tokenize` and `attention`.

Log-probabilities and entropies are in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from operator import add
from typing import TypedDict

from genlm.decoding.strategy import Strategy
from genlm.model.info import ModelInfo
from genlm.model.pieces import Token, Tokens
from genlm.records.made_by import MadeBy

# The next token.


@dataclass(frozen=True)
class Candidate:
    """A possible next token; `rank` 1 is the most likely.

    `filtered` is its probability under a strategy, 0 if the strategy rules it out. `bytes` is set if the token holds
    only part of a character.
    """

    rank: int
    id: int
    text: str
    probability: float
    logprob: float
    filtered: float | None = None
    bytes: bytes | None = None


@dataclass(frozen=True)
class Filtered:
    """The next token's distribution under a strategy.

    The strategy keeps `kept` tokens and rules out `cut`, which had `cut_probability` in total; `likeliest_cut` are the
    most likely of these. `entropy` is that of the remaining distribution.
    """

    strategy: Strategy
    entropy: float
    kept: int
    cut: int
    cut_probability: float
    likeliest_cut: tuple[Candidate, ...]


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token: its entropy, and the most likely `candidates`, in order."""

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
    """A token of a continuation, with its log-probability after the prompt and the tokens before it.

    `filtered` is its log-probability under a strategy, minus infinity if the strategy rules it out.
    """

    id: int
    text: str
    logprob: float
    filtered: float | None = None


@dataclass(frozen=True)
class Continuation:
    """A continuation of a prompt; `share` is its share of the total probability of all that were compared."""

    rank: int
    text: str
    tokens: tuple[ContinuationToken, ...]
    share: float

    @property
    def logprob(self) -> float:
        """log p(continuation | prompt)."""
        return sum(token.logprob for token in self.tokens)

    @property
    def filtered(self) -> float | None:
        """The same under a strategy, or None without one."""
        parts = [token.filtered for token in self.tokens if token.filtered is not None]
        return sum(parts) if parts else None


@dataclass(frozen=True)
class Comparison:
    """Continuations of a prompt, the most likely first; `entropy` is that of the next token."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    entropy: float
    strategy: Strategy | None
    continuations: tuple[Continuation, ...]
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)


@dataclass(frozen=True)
class Branch:
    """A token in a tree: its `logprob` after the tokens before it, and the `path_logprob` of all of them together.

    `ends` is whether it is an end token.
    """

    id: int
    text: str
    logprob: float
    path_logprob: float
    ends: bool
    children: list[Branch] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """The most likely continuations of a prompt, `steps` tokens long; `entropy` is that of the next token."""

    model: ModelInfo
    prompt: str
    prompt_token_ids: tuple[int, ...]
    strategy: Strategy | None
    steps: int
    entropy: float
    branches: list[Branch]
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)


# Scored texts.


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a scored text; `rank` 1 is the most likely token at its position.

    `logprob`, `rank` and `entropy` are None for a first token without a start token before it. `bytes` is set if the
    token holds only part of a character, which `text` cannot show.
    """

    id: int
    text: str
    logprob: float | None
    rank: int | None
    entropy: float | None
    bytes: bytes | None = None


# The buckets of ranks in GLTR (Gehrmann et al. 2019): up to each of these, and beyond.
RANK_BOUNDS = (10, 100, 1000)


@dataclass(frozen=True)
class Tally:
    """Sums over scored texts.

    `logprob` is the sum over the scored tokens: all tokens, or all but the first of each text without a start token.
    `ranks` counts the scored tokens in each bucket of RANK_BOUNDS.
    """

    num_texts: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    num_scored_tokens: int = 0
    num_scored_bytes: int = 0
    logprob: float = 0.0
    ranks: tuple[int, ...] = (0,) * (len(RANK_BOUNDS) + 1)

    def __add__(self, other: Tally) -> Tally:
        *sums, ranks = vars(self).values()
        *more, other_ranks = vars(other).values()
        return replace(Tally(*map(add, sums, more)), ranks=tuple(map(add, ranks, other_ranks)))

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-probability of a scored token; None without one, or if beyond a float."""
        if not self.num_scored_tokens:
            return None
        try:
            return math.exp(-self.logprob / self.num_scored_tokens)
        except OverflowError:
            return None

    @property
    def bits_per_byte(self) -> float | None:
        """The negative log-probability in bits over the number of scored bytes; None without any."""
        return -self.logprob / math.log(2) / self.num_scored_bytes if self.num_scored_bytes else None


class ScoreSettings(TypedDict):
    """The settings of a score: whether texts get a start token, and the window and stride in tokens."""

    bos: bool
    window: int
    stride: int


@dataclass(frozen=True)
class ScoredText:
    """A text with its score, from a `source` and `line` (from 1); `tokens` is None if they are not kept."""

    text: str
    source: str | None
    line: int | None
    tokens: tuple[TokenScore, ...] | None
    tally: Tally


# Tokens and attention.


@dataclass(frozen=True)
class TokenizedText:
    """A text and its tokens, from a `source` and `line` (from 1)."""

    text: str
    source: str | None
    line: int | None
    tokens: Tokens


@dataclass(frozen=True)
class AttentionCheck:
    """How exact attention weights are, over all layers and heads.

    `largest_difference` is from softmax(QK^T * scale) in double precision, computed from the queries and keys that the
    model's own kernel receives. `largest_row_error` is the largest difference of a row's sum from 1.
    """

    largest_difference: float
    largest_row_error: float
    largest_above_diagonal: float


@dataclass(frozen=True)
class Head:
    """The attention weights of one head. `weights[i][j]` is how much token i attends to token j, 0 for j > i."""

    layer: int
    head: int
    weights: list[list[float]]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of a prompt's tokens, by head."""

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]
    num_layers: int
    num_heads: int
    heads: tuple[Head, ...]
    check: AttentionCheck | None = None
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)
