"""The Python side of genlm: what `import genlm` offers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from genlm.decoding.completion import Completion, Piece
from genlm.decoding.strategy import Strategy
from genlm.model.info import ModelInfo
from genlm.model.source import Notify, find_model
from genlm.records import Generation
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, DEFAULT_STRATEGY, Generating, Limits, Overflow

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice, DtypeChoice, Model


class LanguageModel:
    """A loaded model with genlm's tasks as methods."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def info(self) -> ModelInfo:
        """Name, source, revision, parameters, dtype and device."""
        return self._model.info

    def generate(
        self,
        prompt: str,
        *,
        strategy: str | Strategy = DEFAULT_STRATEGY,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        num_return_sequences: int = 1,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        overflow: Overflow = "error",
    ) -> Generation:
        """Continue `prompt`.

        Sample i depends on the model, its dtype, the prompt, the strategy, the seed and i alone.

        Raises:
            UsageError: a strategy or limit that makes no sense; a SpecError says where in the spec.
            InputError: a prompt that the model cannot take.
            ModelError: logits that are not numbers.
        """
        generating = self._start(prompt, strategy, max_new_tokens, num_return_sequences, seed, stop, overflow)
        for _ in generating:
            pass
        return generating.result

    def stream(
        self,
        prompt: str,
        *,
        strategy: str | Strategy = DEFAULT_STRATEGY,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        num_return_sequences: int = 1,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        overflow: Overflow = "error",
    ) -> Iterator[Piece | Completion]:
        """As `generate`, yielding each `Piece` of text as it is made and each `Completion` as it ends."""
        return iter(self._start(prompt, strategy, max_new_tokens, num_return_sequences, seed, stop, overflow))

    def _start(
        self,
        prompt: str,
        strategy: str | Strategy,
        max_new_tokens: int,
        num_return_sequences: int,
        seed: int | None,
        stop: str | Sequence[str],
        overflow: Overflow,
    ) -> Generating:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        limits = Limits(max_new_tokens, num_return_sequences, stops, overflow)
        chosen = Strategy.parse(strategy) if isinstance(strategy, str) else strategy
        return Generating(self._model, prompt, chosen, limits, seed)


def load(
    name: str | None = None,
    *,
    revision: str | None = None,
    device: DeviceChoice = "auto",
    dtype: DtypeChoice = "auto",
    allow_pickle: bool = False,
    notify: Notify = lambda _: None,
) -> LanguageModel:
    """Load a model: `fable` (bundled), a local folder in Hugging Face format, or a Hub id such as `gpt2`.

    Without a name the model is the one in `GENLM_MODEL`, else gpt2, or fable where gpt2 cannot be had.
    `notify` is told, in one line each, what a user would want to know.

    Raises:
        ModelError: a model that cannot be found, had or loaded.
    """
    from genlm.model.load import load_model

    folder = find_model(
        name or os.environ.get("GENLM_MODEL") or None, revision=revision, allow_pickle=allow_pickle, notify=notify
    )
    return LanguageModel(load_model(folder, device=device, dtype=dtype, allow_pickle=allow_pickle))
