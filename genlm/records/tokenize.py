"""Texts and their tokens."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.model.pieces import Token


@dataclass(frozen=True)
class TokenizedText:
    """A text and its tokens. `source` and `line` (from 1) say where it came from."""

    text: str
    source: str | None
    line: int | None
    tokens: tuple[Token, ...]
