"""Texts and how likely a model finds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a scored text: `rank` 1 is the likeliest, log-probability and entropy are in nats.

    All three are None for a first token that nothing stands before. `bytes` is there for a token that holds only
    part of a character, which `text` cannot show.
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

    `logprob` is the sum over the scored tokens, in nats: all of them, or all but the first of each text where no
    start token stands before it. `ranks` counts scored tokens by bucket.
    """

    num_texts: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    num_scored_tokens: int = 0
    num_scored_bytes: int = 0
    logprob: float = 0.0
    ranks: tuple[int, ...] = (0,) * (len(RANK_BOUNDS) + 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.num_texts + other.num_texts,
            self.num_tokens + other.num_tokens,
            self.num_bytes + other.num_bytes,
            self.num_scored_tokens + other.num_scored_tokens,
            self.num_scored_bytes + other.num_scored_bytes,
            self.logprob + other.logprob,
            tuple(mine + others for mine, others in zip(self.ranks, other.ranks, strict=True)),
        )

    @property
    def perplexity(self) -> float | None:
        """exp of the mean surprise of a scored token; None where there is none, or it is beyond a float."""
        if not self.num_scored_tokens:
            return None
        try:
            return math.exp(-self.logprob / self.num_scored_tokens)
        except OverflowError:
            return None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of surprise over the bytes that were scored; None where there are none."""
        return -self.logprob / math.log(2) / self.num_scored_bytes if self.num_scored_bytes else None


class ScoreSettings(TypedDict):
    """What a score depends on beside the model: a start token or none, the window and its stride in tokens."""

    bos: bool
    window: int
    stride: int


@dataclass(frozen=True)
class ScoredText:
    """A text with its score. `source` and `line` (from 1) say where it came from; `tokens` is None if not kept."""

    text: str
    source: str | None
    line: int | None
    tokens: tuple[TokenScore, ...] | None
    tally: Tally
