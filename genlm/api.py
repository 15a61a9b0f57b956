"""The Python interface of genlm."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genlm.decoding.completion import Completion, Piece
from genlm.decoding.request import draw_seed
from genlm.decoding.strategy import Strategy
from genlm.errors import UsageError
from genlm.model.info import DeviceChoice, DtypeChoice, Engine, ModelInfo
from genlm.model.source import Notify, find_model
from genlm.records.batch import BatchRecord
from genlm.records.compare import METRICS, StrategyComparison
from genlm.records.generation import Generation, Overflow
from genlm.records.inspection import AttentionMaps, NextToken, ScoredText
from genlm.tasks.attention import look_at_attention
from genlm.tasks.batch.jobs import BatchSettings, make_jobs, run_jobs
from genlm.tasks.compare import DEFAULT_STRATEGIES, Comparer, ComparisonSettings, Contender
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, DEFAULT_STRATEGY, Limits, continue_prompt, result_of
from genlm.tasks.next import DEFAULT_TOP, next_token
from genlm.tasks.score import score_text

if TYPE_CHECKING:
    from genlm.model.load import Model


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
        trace: bool = False,
        deterministic: bool = False,
    ) -> Generation:
        """Continue `prompt`.

        Sample i depends only on the model, its dtype, the prompt, the strategy, the seed and i, up to float rounding;
        with `deterministic`, not even rounding differs. `trace` records the model's distribution for every token.

        Raises:
            UsageError: an invalid strategy or limit; a SpecError has the position in the spec.
            InputError: a prompt that the model cannot take.
            ModelError: logits that are not numbers.
        """
        limits = _limits(max_new_tokens, num_return_sequences, stop, overflow)
        return result_of(
            continue_prompt(
                self._model, prompt, _parsed(strategy), limits, seed, trace=trace, deterministic=deterministic
            )
        )

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
        trace: bool = False,
        deterministic: bool = False,
    ) -> Iterator[Piece | Completion]:
        """Like `generate`, but yield each `Piece` of text when it is generated and each `Completion` when it ends."""
        limits = _limits(max_new_tokens, num_return_sequences, stop, overflow)
        events = continue_prompt(
            self._model, prompt, _parsed(strategy), limits, seed, trace=trace, deterministic=deterministic
        )
        return (event for event in events if not isinstance(event, Generation))

    def batch(
        self,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        strategy: str | Strategy = DEFAULT_STRATEGY,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        num_return_sequences: int = 1,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        overflow: Overflow = "error",
        deterministic: bool = False,
        batch_size: int | None = None,
    ) -> Iterator[BatchRecord]:
        """Continue many prompts together. Yield a record for each as it finishes.

        A record has the completions that `generate` gives for the prompt alone, and `id`, `prompt`, `columns` and the
        settings that made it. If the prompt cannot be continued, `completions` is empty and `error` says why.

        A prompt is a text, or a mapping like a line of a JSON lines file for `genlm batch`: with the key `prompt`, and
        optionally `id`, `strategy`, `seed`, `max_new_tokens` and others, which become `columns`. At most `batch_size`
        sequences run at once; by default as many as fit in memory and still run faster together.

        Raises:
            UsageError: an invalid strategy or limit; a SpecError says where in the spec.
        """
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        limits = _limits(max_new_tokens, num_return_sequences, stop, overflow)
        settings = BatchSettings(_parsed(strategy), draw_seed() if seed is None else seed, limits, deterministic)
        return run_jobs(self._model, make_jobs(prompts, settings), batch_size=batch_size)

    def compare(
        self,
        prompts: str | Sequence[str],
        strategies: Sequence[str | Strategy] = DEFAULT_STRATEGIES,
        *,
        num_return_sequences: int = 1,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        seed: int | None = None,
        reference: Sequence[str] = (),
        judge: LanguageModel | None = None,
        overflow: Overflow = "error",
        metrics: Sequence[str] = METRICS,
    ) -> StrategyComparison:
        """Compare strategies: their completions of the prompts, and metrics of these with confidence intervals.

        Each prompt has `num_return_sequences` completions, or as many as the strategy can give. `reference` are human
        texts; the distances to their metrics are reported. `metrics` are the names of those to compute. A prompt that
        fails under a strategy is a cell with an error.

        Raises:
            UsageError: no prompt or strategy, or an invalid strategy, count or metric; a SpecError has the position in
                the spec.
            ModelError: more completions than memory can hold.
            InputError, ModelError: the first failure, if no strategy has a completion.
        """
        comparing = Comparer(
            self._model,
            [prompts] if isinstance(prompts, str) else prompts,
            [Contender(_parsed(strategy), {}) for strategy in strategies],
            ComparisonSettings(
                max_new_tokens,
                num_return_sequences,
                draw_seed() if seed is None else seed,
                overflow,
                (metrics,) if isinstance(metrics, str) else tuple(metrics),
            ),
            human=reference,
            judge=None if judge is None else judge._model,
        )
        for _ in comparing:
            pass
        return comparing.result

    def next(self, prompt: str, *, top: int = DEFAULT_TOP, strategy: str | Strategy | None = None) -> NextToken:
        """Return the `top` most likely tokens after `prompt`, and the distribution that a strategy chooses from.

        Raises:
            UsageError: `top` is less than 1, or an invalid strategy.
            InputError: a prompt that the model cannot take.
            ModelError: logits that are not numbers.
        """
        return next_token(self._model, prompt, top=top, strategy=None if strategy is None else _parsed(strategy))

    def score(self, text: str, *, bos: bool | None = None, stride: int | None = None) -> ScoredText:
        """Return how likely the model finds `text`, token by token; `bos` puts a start token before it.

        Raises:
            UsageError: a stride beyond the context.
            InputError: `bos` for a model without a start token, or a text that the model cannot take.
            ModelError: logits that are not numbers.
        """
        return score_text(self._model, text, bos=bos, stride=stride)

    def attention(self, prompt: str, *, layer: int | None = None, head: int | None = None) -> AttentionMaps:
        """Return what each token of `prompt` attends to, in one layer and head or in all; both count from 0.

        Raises:
            UsageError: a layer or head that the model does not have.
            InputError: a prompt that the model cannot take.
            ModelError: a model without attention.
        """
        return look_at_attention(self._model, prompt, layer=layer, head=head)


def _parsed(strategy: str | Strategy) -> Strategy:
    return Strategy.parse(strategy) if isinstance(strategy, str) else strategy


def _limits(max_new_tokens: int, num_return_sequences: int, stop: str | Sequence[str], overflow: Overflow) -> Limits:
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return Limits(max_new_tokens, num_return_sequences, stops, overflow)


def load(
    name: str | None = None,
    *,
    revision: str | None = None,
    device: DeviceChoice = "auto",
    dtype: DtypeChoice = "auto",
    allow_pickle: bool = False,
    engine: Engine = "genlm",
    notify: Notify = lambda _: None,
) -> LanguageModel:
    """Load a model: `fable` (bundled), a local folder in Hugging Face format, or a Hub id such as `gpt2`.

    Without a name, the model is the one in `GENLM_MODEL`; if that is not set, gpt2, or fable if gpt2 is not available.
    With the engine transformers, its own `generate` runs, for the kinds of strategy that it has. `notify` is called
    with each notice for the user, a line of text.

    Raises:
        ModelError: a model that cannot be found, downloaded or loaded.
        UsageError: an unknown engine, or one that does not support the dtype.
    """
    from genlm.model.load import load_model

    folder = find_model(
        name or os.environ.get("GENLM_MODEL") or None, revision=revision, allow_pickle=allow_pickle, notify=notify
    )
    return LanguageModel(load_model(folder, device=device, dtype=dtype, allow_pickle=allow_pickle, engine=engine))
