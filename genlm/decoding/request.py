"""What a decoding loop is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.decoding.strategy import Strategy
from genlm.decoding.text import Decode


@dataclass(frozen=True)
class Request:
    """A prompt to be continued `count` times by a strategy.

    No step runs fewer than `least_rows` rows: matrix products of very few rows may round differently from larger
    ones, and so make the first of five samples another than the only one.
    """

    prompt_ids: tuple[int, ...]
    strategy: Strategy
    max_new_tokens: int
    count: int
    seed: int
    eos_ids: frozenset[int]
    stop: tuple[str, ...]
    decode: Decode
    least_rows: int = 1
    speculate: bool = True
