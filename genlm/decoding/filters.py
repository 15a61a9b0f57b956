"""What a strategy does to the next token's logits, each filter equal to transformers' own.

A filter takes logits of shape (rows, vocab), float32, and returns new ones; -inf is a token that is out.
The order is transformers': repetition penalty, no-repeat n-gram, temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from genlm.decoding.strategy import Strategy

# History is every token of each row so far, the prompt's included.
History = Sequence[Sequence[int]]
Filter = Callable[[Tensor, History], Tensor]

SMALL_TEMPERATURE = 1e-3
# Top-p sorts this many of the likeliest tokens first.
SHORTLIST = 64
# Where these do not hold enough, it halves the band in which the nucleus ends, until this many lie in it.
BAND, HALVINGS, ROUNDS = 256, 12, 3
# Keeps a bound true in spite of rounding.
SAFELY = 0.99


def make_filters(strategy: Strategy) -> list[Filter]:
    """The filters of a strategy in the order in which they apply; a field at its neutral value adds none."""
    fields = cast(dict[str, Any], strategy.fields)
    filters: list[Filter] = []
    if fields["repetition_penalty"] != 1.0:
        filters.append(lambda logits, history: penalise_repetition(logits, history, fields["repetition_penalty"]))
    if fields["no_repeat_ngram_size"] > 0:
        filters.append(lambda logits, history: ban_repeated_ngrams(logits, history, fields["no_repeat_ngram_size"]))
    if fields.get("temperature", 1.0) != 1.0:
        filters.append(lambda logits, _: scale_temperature(logits, fields["temperature"]))
    if fields.get("top_k", 0) > 0:
        filters.append(lambda logits, _: keep_top_k(logits, fields["top_k"]))
    if fields.get("top_p", 1.0) < 1.0:
        filters.append(lambda logits, _: keep_top_p(logits, fields["top_p"]))
    return filters


def penalise_repetition(logits: Tensor, history: History, penalty: float) -> Tensor:
    """Divide the positive logits of tokens already seen by `penalty`, multiply the negative ones (CTRL, 1909.05858)."""
    penalty = _within_float32(penalty)
    logits = logits.clone()
    for row, ids in enumerate(history):
        seen = torch.tensor(list(set(ids)), device=logits.device)
        values = logits[row, seen]
        logits[row, seen] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def ban_repeated_ngrams(logits: Tensor, history: History, size: int) -> Tensor:
    """Rule out every token that would complete an n-gram of `size` that the row already holds."""
    logits = logits.clone()
    for row, ids in enumerate(history):
        banned = _completions_of_seen_ngrams(ids, size)
        if banned:
            logits[row, banned] = -torch.inf
    return logits


def _completions_of_seen_ngrams(ids: Sequence[int], size: int) -> list[int]:
    if len(ids) + 1 < size:
        return []
    last = tuple(ids[len(ids) + 1 - size :])
    starts = range(len(ids) - size + 1)
    return [ids[start + size - 1] for start in starts if tuple(ids[start : start + size - 1]) == last]


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature; a very small one from the largest logit down, so that nothing overflows."""
    if temperature < SMALL_TEMPERATURE:
        logits = logits - logits.amax(-1, keepdim=True)
    return logits / _within_float32(temperature)


def _within_float32(divisor: float) -> float:
    """The divisor, or the nearest that float32 takes for neither zero nor infinite."""
    limits = torch.finfo(torch.float32)
    return min(max(divisor, limits.tiny), limits.max)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` largest logits and what ties with the last of them."""
    smallest = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens, from the likeliest down, that hold a probability of `p` together; at least one.

    Of equally likely tokens those with the lower ids come first.
    """
    probabilities = logits.softmax(-1)
    smallest, places = _end_of_nucleus(probabilities, p)
    outside = probabilities < smallest
    ties = probabilities == smallest
    if bool((ties.sum(-1, keepdim=True) > places).any()):
        outside |= ties & (ties.cumsum(-1, dtype=torch.int32) > places)
    return logits.masked_fill(outside, -torch.inf)


def _end_of_nucleus(probabilities: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The smallest probability in the nucleus, and how many of the tokens that have it are in. Shapes: (rows, 1).

    A nucleus is mostly small: the likeliest tokens are sorted, and more only in the rows where these do not hold `p`.
    """
    vocab = probabilities.shape[-1]
    values = probabilities.topk(min(SHORTLIST, vocab)).values
    smallest, places, ended = _cut(values, torch.zeros_like(values[:, :1]), p)
    if vocab > SHORTLIST and not bool(ended.all()):
        longer = (~ended[:, 0]).nonzero()[:, 0]
        smallest[longer], places[longer] = _end_in_band(probabilities[longer], values[longer, -1:], p)
    return smallest, places


def _end_in_band(probabilities: Tensor, high: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """As `_end_of_nucleus`, for rows whose tokens above `high`, (rows, 1), hold less than `p`.

    No sort of all: the end is closed in by halving a band of probabilities, until few enough lie in it to be sorted.
    Always what lies above `low` holds `p`, for what lies below (1 - p) / vocab can not hold more than 1 - p.
    """
    vocab = probabilities.shape[-1]
    low = torch.full_like(high, (1 - p) / vocab * SAFELY)
    for _ in range(ROUNDS):
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = _mass_above(probabilities, middle) >= p
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        outside = (probabilities <= low) | (probabilities > high)
        if int((~outside).sum(-1).max()) <= BAND:
            band = probabilities.masked_fill(outside, 0.0).topk(min(BAND, vocab)).values
            return _cut(band, _mass_above(probabilities, high), p)[:2]
    # More equal tokens than a band holds.
    return _cut(probabilities.topk(vocab).values, torch.zeros_like(high), p)[:2]


def _mass_above(probabilities: Tensor, threshold: Tensor) -> Tensor:
    return (probabilities * (probabilities > threshold)).sum(-1, keepdim=True)


def _cut(values: Tensor, before: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where falling `values`, with a mass of `before` above them, come to hold `p`: the last value that is needed,
    how many equal to it are, and whether they do hold it. Shapes: (rows, 1).
    """
    kept = before + values.cumsum(-1) - values < p
    # Also in a row of which other filters have left nothing, where no sum is a number.
    kept[:, 0] = True
    smallest = values.gather(-1, kept.sum(-1, keepdim=True) - 1)
    places = (kept & (values == smallest)).sum(-1, keepdim=True)
    return smallest, places, ~kept[:, -1:]
