"""What a result says of the model that made it."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.model.source import Source


@dataclass(frozen=True)
class ModelInfo:
    """`parameters` counts every weight once; `revision` is the commit of a Hub model."""

    name: str
    source: Source
    revision: str | None
    parameters: int
    dtype: str
    device: str
