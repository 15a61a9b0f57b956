"""Run a saved result again, and find where it differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from genlm.decoding.strategy import Strategy
from genlm.errors import GenlmError, InputError
from genlm.records import Difference, Generation, Overflow, Replay
from genlm.tasks.generate import Generating, Limits, check_count

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice, DtypeChoice, Model

Read = TypeVar("Read")
DTYPES = ("float32", "bfloat16", "float16", "int8")
DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class SavedSequence:
    """A completion as it was saved."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Saved:
    """A result as it was saved, with everything that it takes to run it again."""

    model: str
    revision: str | None
    dtype: DtypeChoice
    device: DeviceChoice
    strategy: Strategy
    seed: int
    limits: Limits
    deterministic: bool
    prompt: str
    prompt_ids: tuple[int, ...]
    sequences: tuple[SavedSequence, ...]

    def start(self, model: Model) -> Generating:
        """The same generation, under way on a model. Raises InputError where the model cannot take its prompt."""
        network = model.network
        room = None if network.context is None else network.context - self.limits.max_new_tokens
        if max(self.prompt_ids) >= network.vocab_size or (room is not None and len(self.prompt_ids) > room):
            raise InputError(f"{model.info.name} is not the model that the result was made with: its prompt is beyond it")
        return Generating(
            model,
            self.prompt,
            self.strategy,
            self.limits,
            self.seed,
            deterministic=self.deterministic,
            prompt_ids=self.prompt_ids,
        )

    def compare(self, generation: Generation) -> Replay:
        """Whether the new generation is the same, and if not where it first differs."""
        pairs = zip(self.sequences, generation.completions, strict=True)
        for index, (saved, made) in enumerate(pairs):
            now = SavedSequence(made.token_ids, made.text, made.finish_reason)
            if now != saved:
                return Replay(generation, Difference(index, _first_difference(saved, now), saved, now))
        return Replay(generation, None)
