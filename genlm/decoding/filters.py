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

# Top-p sorts this many of the likeliest tokens first, and all of them only where these do not hold enough.
SHORTLIST = 1024


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
    """Divide by the temperature; from the largest down, so that no temperature overflows."""
    return (logits - logits.amax(-1, keepdim=True)) / _within_float32(temperature)


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
    values, kept = _nucleus(probabilities, min(SHORTLIST, logits.shape[-1]), p)
    if kept.shape[-1] < logits.shape[-1] and bool(kept[:, -1].any()):
        values, kept = _nucleus(probabilities, logits.shape[-1], p)
    smallest = values.gather(-1, kept.sum(-1, keepdim=True) - 1)
    outside = probabilities < smallest
    ties, places = probabilities == smallest, (kept & (values == smallest)).sum(-1, keepdim=True)
    if bool((ties.sum(-1, keepdim=True) > places).any()):
        outside |= ties & (ties.cumsum(-1, dtype=torch.int32) > places)
    return logits.masked_fill(outside, -torch.inf)


def _nucleus(probabilities: Tensor, count: int, p: float) -> tuple[Tensor, Tensor]:
    """The `count` largest probabilities, falling, and whether those before each hold less than `p`."""
    values = probabilities.topk(count).values
    kept = values.cumsum(-1) - values < p
    # Also in a row of which other filters have left nothing, where no sum is a number.
    kept[:, 0] = True
    return values, kept
