"""Which code decodes: genlm's own loops, or the `generate` of transformers."""

from __future__ import annotations

from typing import Literal, TypeAlias

Engine: TypeAlias = Literal["genlm", "transformers"]
ENGINES: tuple[Engine, ...] = ("genlm", "transformers")
