"""What a strategy does to the next token's logits, each filter equal to transformers' own.

A filter takes logits of shape (rows, vocab), float32, and returns new ones; -inf is a token that is out.
The order is transformers': logit bias, repetition penalty, no-repeat n-gram, bad words, least length, temperature,
top-h, top-k, top-p, min-p, typical, epsilon, eta. What transformers does not have stands where its neighbours in kind
do: presence and frequency penalty and DRY after the repetition penalty, top-n-sigma (which no temperature changes)
after the temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, cast

from torch import Tensor

from genlm.decoding.cuts import (
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_h,
    keep_top_k,
    keep_top_n_sigma,
    keep_top_p,
    keep_typical,
    scale_temperature,
)
from genlm.decoding.penalties import (
    History,
    add_biases,
    ban_early_end,
    ban_repeated_ngrams,
    ban_words,
    penalise_repeats,
    penalise_repetition,
    penalise_use,
)
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.decoding.words import read_biases

Filter = Callable[[Tensor, History], Tensor]
# The fields that mean the new tokens alone.
COUNTING = ("presence_penalty", "frequency_penalty", "min_new_tokens")


def request_filters(request: Request) -> list[Filter]:
    """The filters of a request's strategy in the order in which they apply."""
    return make_filters(
        request.strategy,
        prompt_length=len(request.prompt_ids),
        eos_ids=request.eos_ids,
        bad_words_ids=request.bad_words_ids,
    )


def kind_of_filters(request: Request) -> Hashable:
    """What tells the filters of one request from another's: those of the same kind filter the same."""
    counts = any(request.strategy.fields.get(name) for name in COUNTING)
    prompt_length = len(request.prompt_ids) if counts else None
    return request.strategy, prompt_length, request.eos_ids, request.bad_words_ids


def make_filters(
    strategy: Strategy,
    *,
    prompt_length: int,
    eos_ids: Collection[int],
    bad_words_ids: Sequence[Sequence[int]] = (),
) -> list[Filter]:
    """The filters of a strategy in the order in which they apply; a field at its neutral value adds none.

    `prompt_length` is how many tokens of each history are the prompt's, `eos_ids` are the tokens that end a text,
    `bad_words_ids` the strategy's bad words in the model's tokens.
    """
    fields = cast(dict[str, Any], strategy.fields)
    return _penalties(fields, prompt_length, eos_ids, bad_words_ids) + _cuts(fields)


def _penalties(
    fields: dict[str, Any], prompt_length: int, eos_ids: Collection[int], bad_words_ids: Sequence[Sequence[int]]
) -> list[Filter]:
    """What looks at single tokens, and at those so far."""
    filters: list[Filter] = []
    biases = read_biases(fields.get("logit_bias", ""))
    if biases:
        filters.append(lambda logits, _: add_biases(logits, biases))
    if fields.get("repetition_penalty", 1.0) != 1.0:
        filters.append(lambda logits, history: penalise_repetition(logits, history, fields["repetition_penalty"]))
    presence, frequency = fields.get("presence_penalty", 0.0), fields.get("frequency_penalty", 0.0)
    if presence != 0.0 or frequency != 0.0:
        filters.append(lambda logits, history: penalise_use(logits, history, prompt_length, presence, frequency))
    if fields.get("dry_multiplier", 0.0) > 0.0:
        filters.append(
            lambda logits, history: penalise_repeats(
                logits, history, fields["dry_multiplier"], fields["dry_base"], fields["dry_allowed_length"], eos_ids
            )
        )
    if fields.get("no_repeat_ngram_size", 0) > 0:
        filters.append(lambda logits, history: ban_repeated_ngrams(logits, history, fields["no_repeat_ngram_size"]))
    # As in transformers the end of a text is no word that could be banned.
    words = [tuple(word) for word in bad_words_ids if len(word) > 1 or word[0] not in eos_ids]
    if words:
        filters.append(lambda logits, history: ban_words(logits, history, words))
    if fields.get("min_new_tokens", 0) > 0 and eos_ids:
        shortest = prompt_length + fields["min_new_tokens"]
        filters.append(lambda logits, history: ban_early_end(logits, history, shortest, eos_ids))
    return filters


def _cuts(fields: dict[str, Any]) -> list[Filter]:
    """What looks at the distribution alone."""
    cuts: list[tuple[str, float, Callable[[Tensor, Any], Tensor]]] = [
        ("temperature", 1.0, scale_temperature),
        ("top_n_sigma", 0.0, keep_top_n_sigma),
        ("top_h", 0.0, keep_top_h),
        ("top_k", 0, keep_top_k),
        ("top_p", 1.0, keep_top_p),
        ("min_p", 0.0, keep_min_p),
        ("typical_p", 1.0, keep_typical),
        ("epsilon_cutoff", 0.0, keep_epsilon),
        ("eta_cutoff", 0.0, keep_eta),
    ]
    return [_cut_by(cut, fields[name]) for name, neutral, cut in cuts if fields.get(name, neutral) != neutral]


def _cut_by(cut: Callable[[Tensor, Any], Tensor], value: float) -> Filter:
    return lambda logits, _: cut(logits, value)
