"""What a result says about the model that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# Which code decodes: genlm's own loops, or the `generate` of transformers.
Engine: TypeAlias = Literal["genlm", "transformers"]
ENGINES: tuple[Engine, ...] = ("genlm", "transformers")
# Where a model was found.
ModelSource: TypeAlias = Literal["bundled", "local", "hub"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that has been loaded.

    `parameters` counts every weight once; `revision` is the commit of a Hub model.
    """

    name: str
    source: ModelSource
    revision: str | None
    parameters: int
    dtype: str
    device: str
