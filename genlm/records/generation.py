"""A prompt and its completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from genlm.decoding.completion import Completion
from genlm.decoding.strategy import Strategy
from genlm.model.info import Engine
from genlm.records.model import ModelInfo

Overflow: TypeAlias = Literal["error", "truncate-left"]


@dataclass(frozen=True)
class Timing:
    """Seconds. `tokens_per_s` is the new tokens of all samples over `prefill_s + decode_s`."""

    load_s: float
    prefill_s: float
    decode_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class Generation:
    """A prompt and its completions, with everything that made them.

    `prompt_token_ids` are the tokens that were run: a start token for an empty prompt, fewer than the prompt's
    where it was truncated.
    """

    model: ModelInfo
    strategy: Strategy
    seed: int
    max_new_tokens: int
    prompt: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    timing: Timing
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    overflow: Overflow = "error"
    deterministic: bool = False
    engine: Engine = "genlm"
