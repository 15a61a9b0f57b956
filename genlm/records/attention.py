"""The attention between a prompt's tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from genlm.model.info import ModelInfo
from genlm.model.pieces import Token
from genlm.records.made_by import MadeBy


@dataclass(frozen=True)
class AttentionCheck:
    """How far the weights are from what they must be.

    `largest_difference` is to softmax(QK^T * scale), made anew in double precision from the queries and keys that
    the model's usual kernel is given.
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
    """The attention of a prompt's tokens, head by head."""

    model: ModelInfo
    prompt: str
    tokens: tuple[Token, ...]
    num_layers: int
    num_heads: int
    heads: tuple[Head, ...]
    check: AttentionCheck | None = None
    made_by: MadeBy = field(default_factory=MadeBy.now, compare=False)
