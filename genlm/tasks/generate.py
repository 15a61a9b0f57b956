"""Continue a prompt with a strategy."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genlm.decoding.completion import Completion, Piece, Prefilled
from genlm.decoding.dispatch import decode
from genlm.decoding.kinds.shared import BAD_WORDS, LOGIT_BIAS
from genlm.decoding.kinds.standard import NUM_BEAMS
from genlm.decoding.request import Request, draw_seed
from genlm.decoding.strategy import Strategy, transformers_settings
from genlm.errors import InputError, UsageError, show
from genlm.model.info import Engine
from genlm.model.memory import check_free
from genlm.model.pieces import Pieces
from genlm.records.generation import Generation, Overflow, Timing

if TYPE_CHECKING:
    from genlm.model.load import Model

DEFAULT_STRATEGY = Strategy.parse("top-p:top_p=0.9")
DEFAULT_NEW_TOKENS = 50
# In 16 bits, unlike float32, a single row rounds differently enough from several to change a sample.
HALF_DTYPES = ("bfloat16", "float16")
LEAST_ROWS_OF_HALVES = 4
# It fits the 64-bit integers of torch and Parquet.
LARGEST_COUNT = 10**18
# The least memory that a sequence takes, measured with one new token.
SEQUENCE_BYTES = 5_000


@dataclass(frozen=True)
class Limits:
    """How much to generate, and where to stop."""

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    overflow: Overflow = "error"

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_return_sequences"):
            count = getattr(self, name)
            if count < 1:
                raise UsageError(f"{name} must be at least 1, not {show(count)}")
            if count > LARGEST_COUNT:
                raise UsageError(f"{name} must be at most {LARGEST_COUNT}, not {show(count)}")
        if self.overflow not in ("error", "truncate-left"):
            raise UsageError(f"overflow must be error or truncate-left, not {self.overflow!r}")
        if "" in self.stop:
            raise UsageError("a stop text must not be empty")


def check_count(strategy: Strategy, limits: Limits) -> None:
    """Raise UsageError if the strategy cannot generate as many different completions as requested."""
    count = limits.num_return_sequences
    beams = strategy.get(NUM_BEAMS)
    if beams is None and not strategy.samples and count > 1:
        raise UsageError(
            f"{strategy.kind} has one completion, not {count}",
            hint="a kind that samples, such as top-p, generates different ones",
        )
    if beams is not None and count > beams:
        raise UsageError(
            f"num_return_sequences={count} is more than num_beams={beams}",
            hint=f"{strategy.kind} with num_beams={count} keeps that many",
        )


def check_engine(engine: Engine, strategy: Strategy, *, deterministic: bool) -> None:
    """Raise UsageError if the engine does not support the strategy or deterministic decoding."""
    if engine == "genlm":
        return
    transformers_settings(strategy)
    if deterministic:
        raise UsageError(
            f"the engine {engine} has no deterministic decoding: it draws all completions from one random stream"
        )


def continue_prompt(
    model: Model,
    prompt: str,
    strategy: Strategy,
    limits: Limits,
    seed: int | None,
    *,
    trace: bool = False,
    deterministic: bool = False,
    prompt_ids: tuple[int, ...] | None = None,
) -> Iterator[Piece | Completion | Generation]:
    """Yield each piece of text when it is generated, each completion when it ends, and finally the whole result.

    `trace` records the model's distribution for every token. `deterministic` decodes each sequence separately, so that
    not even rounding depends on the others. `prompt_ids`, if given, replace the tokens of the prompt.

    Raises:
        UsageError: a strategy, count or engine that cannot be combined.
        InputError: a prompt that the model cannot take.
        ModelError: while iterating; logits that are not numbers, or not enough memory.
    """
    check_count(strategy, limits)
    seed = draw_seed() if seed is None else seed
    if prompt_ids is None:
        prompt_ids = encode_prompt(model, prompt, limits.max_new_tokens, limits.overflow)
    pieces = Pieces(model.tokenizer) if trace else None
    request = make_request(model, prompt_ids, strategy, limits, seed, deterministic=deterministic, pieces=pieces)
    return _run(model, prompt, request, limits)


def result_of(events: Iterable[Piece | Completion | Generation]) -> Generation:
    """Run `continue_prompt` to its end and return the result."""
    for event in events:
        if isinstance(event, Generation):
            return event
    raise ValueError("the events end without a result")


def _run(model: Model, prompt: str, request: Request, limits: Limits) -> Iterator[Piece | Completion | Generation]:
    completions: list[Completion] = []
    started = prefilled = time.perf_counter()
    for event in decode(model.network, request):
        if isinstance(event, Prefilled):
            prefilled = time.perf_counter()
            continue
        if isinstance(event, Completion):
            completions.append(event)
        yield event
    ended = time.perf_counter()
    num_tokens = sum(len(completion.token_ids) for completion in completions)
    yield Generation(
        model=model.info,
        strategy=request.strategy,
        seed=request.seed,
        max_new_tokens=limits.max_new_tokens,
        prompt=prompt,
        prompt_token_ids=request.prompt_ids,
        completions=tuple(sorted(completions, key=lambda completion: completion.index)),
        timing=Timing(model.load_s, prefilled - started, ended - prefilled, num_tokens / (ended - started)),
        num_return_sequences=limits.num_return_sequences,
        stop=limits.stop,
        overflow=limits.overflow,
        deterministic=request.alone,
        engine=model.engine,
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
    """Return the request for the decoding loops.

    Raises:
        UsageError: a strategy that names tokens which the model lacks, or that the model's engine does not support.
        ModelError: more sequences than fit in memory.
    """
    check_engine(model.engine, strategy, deterministic=deterministic)
    check_biases(model, strategy)
    count = limits.num_return_sequences
    check_free(f"num_return_sequences={count}", count * SEQUENCE_BYTES, "lower num_return_sequences")
    return Request(
        prompt_ids,
        strategy,
        limits.max_new_tokens,
        limits.num_return_sequences,
        seed,
        model.eos_ids,
        limits.stop,
        model.tokenizer.decode,
        least_rows=LEAST_ROWS_OF_HALVES if model.info.dtype in HALF_DTYPES else 1,
        alone=deterministic,
        pieces=pieces,
        bad_words_ids=bad_words_ids(model, strategy),
        engine=model.engine,
    )


def check_biases(model: Model, strategy: Strategy) -> None:
    """Raise UsageError if a strategy's logit_bias names a token that the model does not have."""
    size = model.network.vocab_size
    beyond = next((token for token, _ in strategy[LOGIT_BIAS] if token >= size), None)
    if beyond is not None:
        raise UsageError(
            f"logit_bias has token {beyond}, beyond the model's vocabulary of {size}", hint=f"ids end at {size - 1}"
        )


def bad_words_ids(model: Model, strategy: Strategy) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of a strategy's bad words, with and without a leading space: GPT-2 has other tokens for each.

    Raises:
        InputError: a word that the tokenizer cannot express.
    """
    if not strategy[BAD_WORDS]:
        return ()
    pieces = Pieces(model.tokenizer)
    found: dict[tuple[int, ...], None] = {}
    for word in strategy[BAD_WORDS]:
        for text in (word, f" {word}"):
            ids = tuple(token for part in pieces.encode(text) for token in part)
            if not ids:
                raise InputError(f"the model's tokenizer gives no tokens for the bad word {word!r}")
            found[ids] = None
    # A token beyond the vocabulary is never generated.
    return tuple(ids for ids in found if max(ids) < model.network.vocab_size)


def encode_prompt(model: Model, prompt: str, new: int, overflow: Overflow) -> tuple[int, ...]:
    """Return the token ids of a prompt that leaves room for `new` more tokens in the context.

    Of a long prompt, only the part that is kept is encoded, or enough to see that it does not fit.

    Raises:
        InputError: an empty prompt if the model has no start token, a prompt that the tokenizer cannot express, or one
            that is too long.
    """
    context = model.network.context
    room = None if context is None else context - new
    if room is not None and room <= 0:
        raise InputError(
            f"{new} new tokens leave no room for a prompt in the model's context of {context}",
            hint=f"generate at most {context - 1}" if context is not None else None,
        )
    if room is not None and overflow == "error" and model.tokenizer.least_tokens(prompt) > room:
        raise _too_long(f"more than {room}", new, room)
    end = prompt if room is None else model.tokenizer.end_of(prompt, room + 1)
    ids = model.tokenizer.encode(end) if prompt else []
    if prompt and not ids:
        raise InputError("the model's tokenizer has no tokens for this prompt")
    if not ids:
        if model.start_id is None:
            raise InputError("the prompt is empty, and the model has no start token")
        ids = [model.start_id]
    check_vocabulary(model, ids)
    if room is None or len(ids) <= room:
        return tuple(ids)
    if overflow == "error":
        raise _too_long(str(len(ids)) if len(end) == len(prompt) else f"more than {room}", new, room)
    return tuple(ids[-room:])


def check_vocabulary(model: Model, ids: Iterable[int]) -> None:
    """Raise InputError if the tokenizer returns a token that the model does not have."""
    size = model.network.vocab_size
    beyond = next((token for token in ids if token >= size), None)
    if beyond is not None:
        raise InputError(
            f"the tokenizer returns token {beyond}, but the model's vocabulary has only {size}",
            hint="the tokenizer and the weights do not belong to the same model",
        )


def _too_long(count: str, new: int, room: int) -> InputError:
    """Return the error for a prompt of `count` tokens of which only `room` fit beside the new ones."""
    more = f"with {new} new one{'s' if new > 1 else ''} " if new else ""
    return InputError(
        f"the prompt has {count} tokens, {more}beyond the model's context of {room + new}",
        hint=f"only the last {room} tokens of the prompt fit",
        code="prompt-too-long",
    )
