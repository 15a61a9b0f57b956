"""What a decoding loop is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.decoding.strategy import Strategy
from genlm.decoding.text import Decode
from genlm.model.engine import Engine
from genlm.model.pieces import Pieces


@dataclass(frozen=True)
class Request:
    """A prompt to be continued `count` times by a strategy.

    No step runs fewer than `least_rows` rows: matrix products of very few rows may round differently from larger
    ones, and so make the first of five samples another than the only one.

    With `alone` each sequence is decoded by itself, one token a step, so that it has the same bits whatever else is
    asked for. `pieces` is there where a trace is wanted: how tokens are spelled in it. `bad_words_ids` are
    sequences of tokens that must not be generated. The engine transformers needs a StockModel.
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
    alone: bool = False
    pieces: Pieces | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    engine: Engine = "genlm"
