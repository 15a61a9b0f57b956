"""A prompt and its completions, and a saved result compared with a new run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from genlm.decoding.completion import Completion
from genlm.decoding.declaration import Plain
from genlm.decoding.strategy import Strategy
from genlm.model.info import Engine, ModelInfo
from genlm.records.made_by import MadeBy
from genlm.records.serialize import from_builtins, to_builtins

Overflow: TypeAlias = Literal["error", "truncate-left"]


@dataclass(frozen=True)
class Timing:
    """Seconds. `tokens_per_s` is the new tokens of all samples over `prefill_s + decode_s`."""

    load_s: float
    prefill_s: float
    decode_s: float
    tokens_per_s: float


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A prompt and its completions, with everything that made them. The fields are in the order of the JSON.

    `prompt_token_ids` are the tokens that ran: a start token for an empty prompt, and only the end of a prompt that
    was truncated.
    """

    model: ModelInfo
    engine: Engine = "genlm"
    strategy: Strategy
    seed: int
    max_new_tokens: int
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    overflow: Overflow = "error"
    deterministic: bool = False
    prompt: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    timing: Timing
    # None in a result that an older version saved.
    made_by: MadeBy | None = field(default_factory=MadeBy.now, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON holds."""
        values: dict[str, Any] = to_builtins(vars(self) | {"strategy": self.strategy.to_json()})
        if self.made_by is None:
            del values["made_by"]
        for completion in values["completions"]:
            if completion.get("trace") is None:
                completion.pop("trace", None)
            else:
                compact_trace(completion["trace"])
        return values

    @classmethod
    def from_dict(cls, values: Any) -> Generation:
        """Return the generation that parsed JSON holds.

        Raises:
            ValueError: a missing key or a value of the wrong type.
            UsageError: a strategy that does not exist.
        """
        saved = from_builtins(_SavedGeneration, values)
        strategy = Strategy.of(saved.strategy.kind, saved.strategy.fields, name=saved.strategy.name)
        # The JSON has every field, whether it was given or not.
        return cls(**(vars(saved) | {"strategy": replace(strategy, given=frozenset())}))


@dataclass(frozen=True)
class _SavedStrategy:
    name: str
    kind: str
    fields: dict[str, Plain]


@dataclass(frozen=True, kw_only=True)
class _SavedGeneration(Generation):
    strategy: _SavedStrategy  # type: ignore[assignment]
    made_by: MadeBy | None = None


def compact_trace(trace: list[dict[str, Any]]) -> None:
    """Remove the key `bytes` from tokens that hold whole characters."""
    for token in trace:
        for each in (token, *token["alternatives"]):
            if each.get("bytes") is None:
                each.pop("bytes", None)


@dataclass(frozen=True)
class Difference:
    """Where a repeated run first differs from the saved result, in sample `index`.

    At token `position`, both counted from 0, the saved result had the token `saved` and the new one has `now`: id and
    text, or None if it has ended. If the tokens are the same, `position` is None, and the text or the finish reason
    differs.
    """

    index: int
    position: int | None
    saved: tuple[int, str] | None
    now: tuple[int, str] | None


@dataclass(frozen=True)
class Replay:
    """A repeated run of a saved result, and the first difference, if any."""

    generation: Generation
    difference: Difference | None
