"""What a strategy does to the next token's logits, each filter equal to transformers' own.

A filter takes logits of shape (rows, vocab), float32, and returns new ones; -inf is a token that is out.
The order is transformers': logit bias, repetition penalty, no-repeat n-gram, bad words, least length, temperature,
top-h, top-k, top-p, min-p, typical, epsilon, eta. What transformers does not have stands where its neighbours in kind
do: presence and frequency penalty and DRY after the repetition penalty, top-n-sigma (which no temperature changes)
after the temperature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.decoding.words import read_biases

# History is every token of each row so far, the prompt's included.
History = Sequence[Sequence[int]]
Filter = Callable[[Tensor, History], Tensor]

# The fields that mean the new tokens alone.
COUNTING = ("presence_penalty", "frequency_penalty", "min_new_tokens")
SMALL_TEMPERATURE = 1e-3
# How many repeated tokens DRY counts at most, and the most that it takes from a logit.
LONGEST_REPEAT, LARGEST_PENALTY = 50, 1e6
# Transformers' top-h looks at no more tokens.
TOP_H_SHORTLIST = 100
# Top-p sorts this many of the likeliest tokens first.
SHORTLIST = 64
# Where these do not hold enough, it halves the band in which the nucleus ends, until this many lie in it.
BAND, HALVINGS, ROUNDS = 256, 12, 3
# Keeps a bound true in spite of rounding.
SAFELY = 0.99


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
    counts = any(
        request.strategy.fields.get(name) for name in ("presence_penalty", "frequency_penalty", "min_new_tokens")
    )
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


def add_biases(logits: Tensor, biases: Mapping[int, float]) -> Tensor:
    """Add its bias to the logit of each token that has one (as OpenAI's API)."""
    logits = logits.clone()
    logits[:, list(biases)] += torch.tensor(list(biases.values()), device=logits.device)
    return logits


def penalise_repetition(logits: Tensor, history: History, penalty: float) -> Tensor:
    """Divide the positive logits of tokens already seen by `penalty`, multiply the negative ones (CTRL, 1909.05858)."""
    penalty = _within_float32(penalty)
    logits = logits.clone()
    for row, ids in enumerate(history):
        seen = torch.tensor(list(set(ids)), device=logits.device)
        values = logits[row, seen]
        logits[row, seen] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def penalise_use(logits: Tensor, history: History, prompt_length: int, presence: float, frequency: float) -> Tensor:
    """Take `presence` from the logits of tokens generated before, and `frequency` for each time (as OpenAI's API).

    The prompt's tokens do not count.
    """
    logits = logits.clone()
    for row, ids in enumerate(history):
        counts = Counter(ids[prompt_length:])
        if counts:
            penalties = torch.tensor([presence + frequency * count for count in counts.values()], device=logits.device)
            logits[row, list(counts)] -= penalties
    return logits


def penalise_repeats(
    logits: Tensor, history: History, multiplier: float, base: float, allowed: int, breakers: Collection[int]
) -> Tensor:
    """Take multiplier * base ** (n - allowed) from every token that would repeat n >= `allowed` tokens and itself.

    DRY, as p-e-w defines it: n is how many of the last tokens stood before that token once already. The prompt
    counts; no repeat goes over one of the `breakers`.
    """
    logits = logits.clone()
    for row, ids in enumerate(history):
        for token, length in _repeats(ids, breakers).items():
            if length >= allowed:
                logits[row, token] -= _dry_penalty(multiplier, base, length - allowed)
    return logits


def _dry_penalty(multiplier: float, base: float, excess: int) -> float:
    """The penalty; never so large that a token becomes impossible."""
    return min(multiplier * base**excess, LARGEST_PENALTY)


def _repeats(ids: Sequence[int], breakers: Collection[int]) -> dict[int, int]:
    """How many of the last tokens each token has followed before, where it has followed the last."""
    longest: dict[int, int] = {}
    if not ids or ids[-1] in breakers:
        return longest
    for at in range(len(ids) - 1):
        token = ids[at + 1]
        if ids[at] == ids[-1] and token not in breakers:
            longest[token] = max(longest.get(token, 0), _match(ids, at, breakers))
    return longest


def _match(ids: Sequence[int], at: int, breakers: Collection[int]) -> int:
    """How many tokens up to and with `ids[at]` are the last ones too."""
    length = 1
    while length < min(at + 1, LONGEST_REPEAT) and ids[at - length] == ids[-1 - length]:
        if ids[at - length] in breakers:
            break
        length += 1
    return length


def ban_early_end(logits: Tensor, history: History, shortest: int, eos_ids: Collection[int]) -> Tensor:
    """Rule out the tokens that end a text where the row, prompt included, is not yet `shortest` tokens long."""
    logits = logits.clone()
    ends = sorted(token for token in eos_ids if token < logits.shape[-1])
    for row, ids in enumerate(history):
        if len(ids) < shortest:
            logits[row, ends] = -torch.inf
    return logits


def ban_repeated_ngrams(logits: Tensor, history: History, size: int) -> Tensor:
    """Rule out every token that would complete an n-gram of `size` that the row already holds."""
    logits = logits.clone()
    for row, ids in enumerate(history):
        banned = _completions_of_seen_ngrams(ids, size)
        if banned:
            logits[row, banned] = -torch.inf
    return logits


def ban_words(logits: Tensor, history: History, words: Sequence[tuple[int, ...]]) -> Tensor:
    """Rule out every token that would complete one of `words`, which are sequences of tokens."""
    logits = logits.clone()
    for row, ids in enumerate(history):
        banned = [word[-1] for word in words if _ends_with(ids, word[:-1])]
        if banned:
            logits[row, banned] = -torch.inf
    return logits


def _ends_with(ids: Sequence[int], last: tuple[int, ...]) -> bool:
    return len(last) <= len(ids) and tuple(ids[len(ids) - len(last) :]) == last


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


def keep_top_n_sigma(logits: Tensor, n: float) -> Tensor:
    """Keep what is at most `n` standard deviations of the possible tokens' logits below the largest (2411.07641)."""
    possible = logits > -torch.inf
    count = possible.sum(-1, keepdim=True)
    below = (logits - logits.amax(-1, keepdim=True)).masked_fill(~possible, 0.0)
    mean = below.sum(-1, keepdim=True) / count
    variance = (below - mean).square().masked_fill(~possible, 0.0).sum(-1, keepdim=True) / count
    return logits.masked_fill(below < -n * variance.sqrt(), -torch.inf)


def keep_top_h(logits: Tensor, h: float) -> Tensor:
    """Keep the likeliest tokens, at least one, whose terms of the entropy sum to `h` of it at most (2509.02510).

    As in transformers the entropy is that of the 100 likeliest tokens, and no others are kept.
    """
    top = logits.topk(min(TOP_H_SHORTLIST, logits.shape[-1]))
    logprobs = top.values - top.values.logsumexp(-1, keepdim=True)
    probabilities = logprobs.softmax(-1)
    terms = -probabilities * probabilities.log()
    inside = terms.cumsum(-1) <= _entropy(logprobs, probabilities) * h
    inside[:, 0] = True
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, top.indices, inside)
    return logits.masked_fill(~kept, -torch.inf)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keep the tokens at least `share` times as likely as the likeliest (2407.01082)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < share * probabilities.amax(-1, keepdim=True), -torch.inf)


def keep_typical(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is nearest the entropy until they hold `mass` (2202.00666).

    And those that are as near as the last of these.
    """
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs * logprobs.exp()).nansum(-1, keepdim=True)
    distance = (-logprobs - entropy).abs()
    nearest = distance.sort(-1)
    held = logits.gather(-1, nearest.indices).softmax(-1).cumsum(-1)
    last = (held < mass).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(distance > nearest.values.gather(-1, last), -torch.inf)


def keep_epsilon(logits: Tensor, epsilon: float) -> Tensor:
    """Keep the tokens of a probability of `epsilon` or more, and the likeliest (2210.15191)."""
    outside = (logits.softmax(-1) < epsilon) & (logits < logits.amax(-1, keepdim=True))
    return logits.masked_fill(outside, -torch.inf)


def keep_eta(logits: Tensor, epsilon: float) -> Tensor:
    """Keep the tokens of a probability of eta = min(epsilon, sqrt(epsilon) * exp(-entropy)) or more (2210.15191).

    And the likeliest.
    """
    probabilities = logits.softmax(-1)
    logprobs = logits - logits.logsumexp(-1, keepdim=True)
    cutoff = torch.tensor(epsilon, device=logits.device)
    eta = torch.minimum(cutoff, cutoff.sqrt() * (-_entropy(logprobs, probabilities)).exp())
    outside = (probabilities < eta) & (logits < logits.amax(-1, keepdim=True))
    return logits.masked_fill(outside, -torch.inf)


def _entropy(logprobs: Tensor, probabilities: Tensor) -> Tensor:
    """The entropy in nats; a token of no probability adds nothing. Shape: (rows, 1)."""
    return -(logprobs.clamp(min=torch.finfo(logprobs.dtype).min) * probabilities).sum(-1, keepdim=True)


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
    return _without(logits, outside)


def _without(logits: Tensor, outside: Tensor) -> Tensor:
    """The logits with -inf outside; a sum, for a choice between two takes four times as long where many are out."""
    huge = torch.finfo(logits.dtype).max
    # Times infinity zero would not stay zero.
    return outside.to(logits.dtype).mul_(-huge).mul_(huge).add_(logits)


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
        inside = (probabilities > low) & (probabilities <= high)
        if int(inside.sum(-1).max()) <= BAND:
            band = (probabilities * inside).topk(min(BAND, vocab)).values
            return _cut(band, _mass_above(probabilities, high), p)[:2]
    # More equal tokens than a band holds.
    return _cut(probabilities.topk(vocab).values, torch.zeros_like(high), p)[:2]


def _mass_above(probabilities: Tensor, threshold: Tensor) -> Tensor:
    """What lies above a row's threshold. As quotients, for one threshold for all rows takes a quarter of the time."""
    return F.threshold(probabilities / threshold, 1.0, 0.0).sum(-1, keepdim=True) * threshold


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
