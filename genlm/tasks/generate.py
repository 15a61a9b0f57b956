"""Continue a prompt with a strategy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genlm.decoding.completion import Completion, Piece, Prefilled
from genlm.decoding.dispatch import decode
from genlm.decoding.equivalent import stock_settings
from genlm.decoding.request import Request, draw_seed
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError
from genlm.model.engine import Engine
from genlm.model.pieces import Pieces
from genlm.records.generation import Generation, Timing
from genlm.records.generation import Overflow as Overflow
from genlm.tasks.words import bad_words_ids, check_biases

if TYPE_CHECKING:
    from genlm.model.load import Model

DEFAULT_STRATEGY = Strategy.parse("top-p:top_p=0.9")
DEFAULT_NEW_TOKENS = 50
# In float32 the rounding of one row and of many differs too little to change a sample; in 16 bits it does not.
HALVES = ("bfloat16", "float16")
LEAST_ROWS_OF_HALVES = 4


@dataclass(frozen=True)
class Limits:
    """How much to generate, and where to stop."""

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    overflow: Overflow = "error"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.num_return_sequences < 1:
            raise UsageError(f"num_return_sequences must be at least 1, not {self.num_return_sequences}")
        if self.overflow not in ("error", "truncate-left"):
            raise UsageError(f"overflow must be error or truncate-left, not {self.overflow!r}")
        if "" in self.stop:
            raise UsageError("a stop text must not be empty")


def check_count(strategy: Strategy, limits: Limits) -> None:
    """Raise UsageError where the strategy cannot give as many different completions as are asked for."""
    count = limits.num_return_sequences
    beams = strategy.fields.get("num_beams")
    if beams is None and not strategy.samples and count > 1:
        raise UsageError(
            f"{strategy.kind} has one completion, not {count}",
            hint="a kind that samples, such as top-p, gives different ones",
        )
    if beams is not None and count > int(beams):
        raise UsageError(
            f"num_return_sequences={count} is more than num_beams={beams}",
            hint=f"{strategy.kind} with num_beams={count} keeps as many",
        )


def check_engine(engine: Engine, strategy: Strategy, *, deterministic: bool) -> None:
    """Raise UsageError where an engine cannot do what is asked for."""
    if engine == "genlm":
        return
    stock_settings(strategy)
    if deterministic:
        raise UsageError(f"--deterministic is genlm's own: {engine} draws all completions from one stream of numbers")


class Generating:
    """A generation under way. Iterate over its events to the end; `result` is then there.

    `trace` keeps what the model made of every token. `deterministic` decodes each sequence by itself, so that not even
    float rounding tells what runs beside it. `prompt_ids` are run in the place of the prompt's own where given.
    """

    def __init__(
        self,
        model: Model,
        prompt: str,
        strategy: Strategy,
        limits: Limits,
        seed: int | None,
        *,
        trace: bool = False,
        deterministic: bool = False,
        prompt_ids: tuple[int, ...] | None = None,
    ) -> None:
        check_count(strategy, limits)
        self.model = model
        self.prompt = prompt
        self.strategy = strategy
        self.limits = limits
        self.seed = draw_seed() if seed is None else seed
        self.pieces = Pieces(model.tokenizer) if trace else None
        self.deterministic = deterministic
        self.prompt_ids = encode_prompt(model, prompt, limits) if prompt_ids is None else prompt_ids
        self.request = make_request(
            model, self.prompt_ids, strategy, limits, self.seed, deterministic=deterministic, pieces=self.pieces
        )
        self.completions: list[Completion] = []
        self._result: Generation | None = None

    def __iter__(self) -> Iterator[Piece | Completion]:
        self.completions.clear()
        started = prefilled = time.perf_counter()
        for event in decode(self.model.network, self.request):
            if isinstance(event, Prefilled):
                prefilled = time.perf_counter()
                continue
            if isinstance(event, Completion):
                self.completions.append(event)
            yield event
        self._result = self._finish(started, prefilled, time.perf_counter())

    @property
    def result(self) -> Generation:
        """The generation. Raises RuntimeError before its last event was taken."""
        if self._result is None:
            raise RuntimeError("the generation is still under way")
        return self._result

    def _finish(self, started: float, prefilled: float, ended: float) -> Generation:
        tokens = sum(len(completion.token_ids) for completion in self.completions)
        return Generation(
            self.model.info,
            self.strategy,
            self.seed,
            self.limits.max_new_tokens,
            self.prompt,
            self.prompt_ids,
            tuple(sorted(self.completions, key=lambda completion: completion.index)),
            Timing(self.model.load_s, prefilled - started, ended - prefilled, tokens / (ended - started)),
            self.limits.num_return_sequences,
            self.limits.stop,
            self.limits.overflow,
            self.deterministic,
            self.model.engine,
        )


def make_request(
    model: Model,
    prompt_ids: tuple[int, ...],
    strategy: Strategy,
    limits: Limits,
    seed: int,
    *,
    deterministic: bool = False,
    pieces: Pieces | None = None,
) -> Request:
    """What a decoding loop is asked for.

    Raises:
        UsageError: a strategy that names tokens which the model lacks, or that its engine does not have.
    """
    check_engine(model.engine, strategy, deterministic=deterministic)
    check_biases(model, strategy)
    return Request(
        prompt_ids,
        strategy,
        limits.max_new_tokens,
        limits.num_return_sequences,
        seed,
        model.eos_ids,
        limits.stop,
        model.tokenizer.decode,
        least_rows=LEAST_ROWS_OF_HALVES if model.info.dtype in HALVES else 1,
        alone=deterministic,
        pieces=pieces,
        bad_words_ids=bad_words_ids(model, strategy),
        engine=model.engine,
    )


def encode_prompt(model: Model, prompt: str, limits: Limits) -> tuple[int, ...]:
    """The token ids that a prompt starts from, where there must be room for the new tokens. Raises as `prompt_ids`."""
    return prompt_ids(model, prompt, limits.max_new_tokens, limits.overflow)


def prompt_ids(model: Model, prompt: str, new: int, overflow: Overflow) -> tuple[int, ...]:
    """The token ids that a prompt starts from, where `new` more must fit the context.

    Raises:
        InputError: an empty prompt to a model without a start token, one that the tokenizer cannot express,
            or one that is too long for the context with the new tokens.
    """
    ids = model.tokenizer.encode(prompt) if prompt else []
    if prompt and not ids:
        raise InputError("the model's tokenizer knows nothing of this prompt: it gives no tokens")
    if not ids:
        if model.start_id is None:
            raise InputError("the prompt is empty, and the model has no token that a text starts from")
        ids = [model.start_id]
    beyond = next((token for token in ids if token >= model.network.vocab_size), None)
    if beyond is not None:
        raise InputError(
            f"the tokenizer gives token {beyond}, beyond the model's vocabulary of {model.network.vocab_size}",
            hint="the tokenizer and the weights are not of the same model",
        )
    return tuple(_fit(ids, model.network.context, new, overflow))


def _fit(ids: Sequence[int], context: int | None, new: int, overflow: Overflow) -> Sequence[int]:
    if context is None or len(ids) + new <= context:
        return ids
    if new >= context:
        raise InputError(
            f"{new} new tokens leave no room for a prompt in the model's context of {context}",
            hint=f"{context - 1} at most",
        )
    if overflow == "truncate-left":
        return ids[len(ids) - (context - new) :]
    more = f", and with {new} new one{'s' if new > 1 else ''} is" if new else ","
    raise InputError(
        f"the prompt has {len(ids)} tokens{more} beyond the model's context of {context}",
        hint=f"--overflow truncate-left keeps the last {context - new} tokens of the prompt",
    )
