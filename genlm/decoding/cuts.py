"""What a strategy keeps of a distribution, by the distribution alone.

Logits have the shape (rows, vocab), float32; what comes back is new, and -inf where a token is out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.penalties import within_float32

SMALL_TEMPERATURE = 1e-3
# Transformers' top-h looks at no more tokens.
TOP_H_SHORTLIST = 100
# Top-p sorts this many of the likeliest tokens first.
SHORTLIST = 64
# Where these do not hold enough, it halves the band in which the nucleus ends, until this many lie in it.
BAND, HALVINGS, ROUNDS = 256, 12, 3
# Keeps a bound true in spite of rounding.
SAFELY = 0.99


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature; a very small one from the largest logit down, so that nothing overflows."""
    if temperature < SMALL_TEMPERATURE:
        logits = logits - logits.amax(-1, keepdim=True)
    return logits / within_float32(temperature)


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
