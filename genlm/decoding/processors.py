"""Logits processors: the changes that a strategy makes to the model's logits before it chooses the next token.

A processor takes logits of shape (rows, vocab), float32, and the tokens of each row so far, and returns new logits; a
token at -inf is ruled out. Its other parameters have the names of a strategy's fields, or are the request's
`prompt_length`, `eos_ids` or `bad_words_ids`. Each equals transformers' own processor if there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from pkgutil import resolve_name
from random import Random
from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy

# Every token of each row so far, including the prompt's.
History: TypeAlias = Sequence[Sequence[int]]
LogitsProcessor: TypeAlias = Callable[[Tensor, History], Tensor]

# DRY counts no more repeated tokens, and subtracts no more from a logit.
LONGEST_REPEAT, LARGEST_PENALTY = 50, 1e6
SMALL_TEMPERATURE = 1e-3
# Like transformers, top-h considers no more tokens.
TOP_H_SHORTLIST = 100
# Top-p first sorts this many of the most likely tokens.
SHORTLIST = 64
# If those are not enough, it bisects the range in which the nucleus ends until at most this many tokens lie in it.
BAND, HALVINGS, ROUNDS = 256, 12, 3
# Keeps a bound true in spite of rounding.
SAFELY = 0.99


class SampledSequence(Protocol):
    """A sequence, as a processor with state sees it: it has its own random stream, and compares by identity."""

    @property
    def random(self) -> Random:
        """The random stream."""
        ...


class StatefulProcessor(Protocol):
    """A processor that follows each sequence: its effect depends on chance or on the tokens drawn before."""

    def process(self, logits: Tensor, sequences: Sequence[SampledSequence]) -> Tensor:
        """Return new logits, a row for each sequence."""
        ...

    def observe(self, logits: Tensor, chosen: Tensor, sequences: Sequence[SampledSequence]) -> None:
        """Learn which tokens, (rows,), were drawn after `logits` were processed."""
        ...


@dataclass(frozen=True)
class LogitsProcessors:
    """The logits processors of a strategy, except those with state.

    Generation, traces and `genlm next` all call this to turn logits into the scores that a strategy chooses by.
    """

    strategy: Strategy
    processors: tuple[LogitsProcessor, ...]

    def __call__(self, logits: Tensor, history: History) -> Tensor:
        """Return the scores of the next token after each row of `history`; -inf is ruled out."""
        return self.apply(self.start(logits), history)

    def start(self, logits: Tensor) -> Tensor:
        """Return the input of the first processor: logits, or log-probabilities for beams, whose scores are sums."""
        return logits.log_softmax(-1) if self.strategy.declaration.on_logprobs else logits

    def apply(self, scores: Tensor, history: History) -> Tensor:
        """Return the scores after every processor."""
        for process in self.processors:
            scores = process(scores, history)
        return scores

    def distribution(self, logits: Tensor, history: History) -> Tensor:
        """Return the same scores, or only that of the most likely token if the strategy always takes it."""
        scores = self(logits, history)
        kind = self.strategy.declaration
        if kind.samples or kind.also_depends_on:
            return scores
        most_likely = scores.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, most_likely, scores.gather(-1, most_likely))


def make_processors(
    strategy: Strategy,
    *,
    prompt_length: int,
    eos_ids: Collection[int],
    bad_words_ids: Sequence[Sequence[int]] = (),
) -> LogitsProcessors:
    """Return the processors of a strategy in the order in which they apply, without those that are off.

    `prompt_length` is how many tokens of each history belong to the prompt, `eos_ids` are the tokens that end a text,
    and `bad_words_ids` the strategy's bad words in the model's tokens.
    """
    known = {**strategy.fields, "prompt_length": prompt_length, "eos_ids": eos_ids, "bad_words_ids": bad_words_ids}
    active = _active(strategy, has_state=False)
    return LogitsProcessors(strategy, tuple(partial(resolve_name(name), **_arguments(name, known)) for name in active))


def request_processors(request: Request) -> LogitsProcessors:
    """Return the processors of a request's strategy."""
    return make_processors(
        request.strategy,
        prompt_length=len(request.prompt_ids),
        eos_ids=request.eos_ids,
        bad_words_ids=request.bad_words_ids,
    )


def make_stateful_processors(strategy: Strategy) -> list[StatefulProcessor]:
    """Return the processors of a strategy that follow each sequence; they apply after all others."""
    active = _active(strategy, has_state=True)
    return [resolve_name(name)(**_arguments(name, strategy.fields)) for name in active]


def processors_key(request: Request) -> Hashable:
    """Return a key that is equal for requests whose processors are the same."""
    counts = any("prompt_length" in _parameters(name) for name in _active(request.strategy, has_state=False))
    prompt_length = len(request.prompt_ids) if counts else None
    return request.strategy, prompt_length, request.eos_ids, request.bad_words_ids


def _active(strategy: Strategy, *, has_state: bool) -> list[str]:
    """Return the implementations of a strategy's processors that are not off, in the order in which they apply."""
    values = strategy.fields
    processors = [each for each in strategy.declaration.processors if each.has_state is has_state]
    return [each.implementation for each in processors if not each.is_off(values)]


def _arguments(implementation: str, known: Mapping[str, Any]) -> dict[str, Any]:
    return {parameter: known[parameter] for parameter in _parameters(implementation)}


@cache
def _parameters(implementation: str) -> tuple[str, ...]:
    names = signature(resolve_name(implementation)).parameters
    return tuple(name for name in names if name not in ("logits", "history"))


# Penalties and bans, which depend on the tokens so far.


def add_bias(logits: Tensor, history: History, logit_bias: tuple[tuple[int, float], ...]) -> Tensor:
    """Add its bias to the logit of each token that has one, like OpenAI's API."""
    tokens, biases = zip(*logit_bias, strict=True)
    logits = logits.clone()
    logits[:, list(tokens)] += torch.tensor(biases, device=logits.device)
    return logits


def penalize_repetition(logits: Tensor, history: History, repetition_penalty: float) -> Tensor:
    """Divide the positive logits of earlier tokens by the penalty, and multiply negative ones (CTRL, 1909.05858)."""
    penalty = _within_float32(repetition_penalty)
    logits = logits.clone()
    for row, ids in enumerate(history):
        seen = torch.tensor(list(set(ids)), device=logits.device)
        values = logits[row, seen]
        logits[row, seen] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def penalize_use(
    logits: Tensor, history: History, presence_penalty: float, frequency_penalty: float, prompt_length: int
) -> Tensor:
    """Subtract one penalty from the logit of each generated token and another for each of its uses (OpenAI's API).

    The prompt's tokens do not count.
    """
    logits = logits.clone()
    for row, ids in enumerate(history):
        counts = Counter(ids[prompt_length:])
        if counts:
            penalties = [presence_penalty + frequency_penalty * count for count in counts.values()]
            logits[row, list(counts)] -= torch.tensor(penalties, device=logits.device)
    return logits


def penalize_repeats(
    logits: Tensor,
    history: History,
    dry_multiplier: float,
    dry_base: float,
    dry_allowed_length: int,
    eos_ids: Collection[int],
) -> Tensor:
    """DRY, as p-e-w defines it: penalize tokens that extend a repeat of at least `dry_allowed_length` tokens.

    The penalty of a token is multiplier * base ** (n - allowed length) if the last n tokens preceded it once already,
    but never so large that the token becomes impossible. The prompt counts. No repeat extends across a token that ends
    a text.
    """
    logits = logits.clone()
    for row, ids in enumerate(history):
        for token, length in _repeats(ids, eos_ids).items():
            if length >= dry_allowed_length:
                penalty = dry_multiplier * dry_base ** (length - dry_allowed_length)
                logits[row, token] -= min(penalty, LARGEST_PENALTY)
    return logits


def _repeats(ids: Sequence[int], breakers: Collection[int]) -> dict[int, int]:
    """Return each token that has followed the last token before, with the length of the longest repeat it extends."""
    longest: dict[int, int] = {}
    if not ids or ids[-1] in breakers:
        return longest
    for at in range(len(ids) - 1):
        token = ids[at + 1]
        if ids[at] == ids[-1] and token not in breakers:
            longest[token] = max(longest.get(token, 0), _match(ids, at, breakers))
    return longest


def _match(ids: Sequence[int], at: int, breakers: Collection[int]) -> int:
    """Return how many tokens up to and including `ids[at]` equal the last ones."""
    length = 1
    while length < min(at + 1, LONGEST_REPEAT) and ids[at - length] == ids[-1 - length]:
        if ids[at - length] in breakers:
            break
        length += 1
    return length


def ban_repeated_ngrams(logits: Tensor, history: History, no_repeat_ngram_size: int) -> Tensor:
    """Rule out tokens that would complete an n-gram of this size that the row already contains."""
    logits = logits.clone()
    for row, ids in enumerate(history):
        start_of_last = len(ids) + 1 - no_repeat_ngram_size
        last = ids[start_of_last:]
        starts = range(start_of_last)
        banned = [ids[start + len(last)] for start in starts if ids[start : start + len(last)] == last]
        if banned:
            logits[row, banned] = -torch.inf
    return logits


def ban_words(
    logits: Tensor, history: History, bad_words_ids: Sequence[Sequence[int]], eos_ids: Collection[int]
) -> Tensor:
    """Rule out tokens that would complete a banned word. As in transformers, the end of a text cannot be banned."""
    words = [tuple(word) for word in bad_words_ids if len(word) > 1 or word[0] not in eos_ids]
    logits = logits.clone()
    for row, ids in enumerate(history):
        banned = [word[-1] for word in words if tuple(ids[len(ids) + 1 - len(word) :]) == word[:-1]]
        if banned:
            logits[row, banned] = -torch.inf
    return logits


def ban_early_end(
    logits: Tensor, history: History, min_new_tokens: int, prompt_length: int, eos_ids: Collection[int]
) -> Tensor:
    """Rule out the tokens that end a text until the row has enough new tokens."""
    logits = logits.clone()
    ends = sorted(token for token in eos_ids if token < logits.shape[-1])
    for row, ids in enumerate(history):
        if len(ids) < prompt_length + min_new_tokens:
            logits[row, ends] = -torch.inf
    return logits


# The temperature and the truncations, which depend on the distribution alone.


def divide_by_temperature(logits: Tensor, history: History, temperature: float) -> Tensor:
    """Divide the logits by the temperature; if it is very small, relative to the largest, so that nothing overflows."""
    if temperature < SMALL_TEMPERATURE:
        logits = logits - logits.amax(-1, keepdim=True)
    return logits / _within_float32(temperature)


def _within_float32(divisor: float) -> float:
    """Return the divisor, or the nearest number that is neither zero nor infinite in float32."""
    limits = torch.finfo(torch.float32)
    return min(max(divisor, limits.tiny), limits.max)


def keep_top_n_sigma(logits: Tensor, history: History, top_n_sigma: float) -> Tensor:
    """Keep tokens at most n standard deviations below the largest logit (2411.07641).

    The standard deviation is that of all tokens not yet ruled out.
    """
    possible = logits > -torch.inf
    count = possible.sum(-1, keepdim=True)
    below = (logits - logits.amax(-1, keepdim=True)).masked_fill(~possible, 0.0)
    mean = below.sum(-1, keepdim=True) / count
    variance = (below - mean).square().masked_fill(~possible, 0.0).sum(-1, keepdim=True) / count
    return logits.masked_fill(below < -top_n_sigma * variance.sqrt(), -torch.inf)


def keep_top_h(logits: Tensor, history: History, top_h: float) -> Tensor:
    """Keep the most likely tokens, at least one, whose terms of the entropy sum to at most a share of it (2509.02510).

    As in transformers, the entropy is that of the 100 most likely tokens, and no others are kept.
    """
    top = logits.topk(min(TOP_H_SHORTLIST, logits.shape[-1]))
    logprobs = top.values - top.values.logsumexp(-1, keepdim=True)
    probabilities = logprobs.softmax(-1)
    terms = -probabilities * probabilities.log()
    inside = terms.cumsum(-1) <= _entropy(logprobs, probabilities) * top_h
    inside[:, 0] = True
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, top.indices, inside)
    return logits.masked_fill(~kept, -torch.inf)


def keep_top_k(logits: Tensor, history: History, top_k: int) -> Tensor:
    """Keep the k largest logits, and any that tie with the last of them."""
    smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_min_p(logits: Tensor, history: History, min_p: float) -> Tensor:
    """Keep tokens at least this many times as likely as the most likely one (2407.01082)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), -torch.inf)


def keep_typical(logits: Tensor, history: History, typical_p: float) -> Tensor:
    """Keep the tokens whose surprise is closest to the entropy, until they hold this probability (2202.00666).

    Tokens as close as the last of these are kept too.
    """
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs * logprobs.exp()).nansum(-1, keepdim=True)
    distance = (-logprobs - entropy).abs()
    nearest = distance.sort(-1)
    held = logits.gather(-1, nearest.indices).softmax(-1).cumsum(-1)
    last = (held < typical_p).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return logits.masked_fill(distance > nearest.values.gather(-1, last), -torch.inf)


def keep_epsilon(logits: Tensor, history: History, epsilon_cutoff: float) -> Tensor:
    """Keep tokens with at least this probability, and the most likely one (2210.15191)."""
    outside = (logits.softmax(-1) < epsilon_cutoff) & (logits < logits.amax(-1, keepdim=True))
    return logits.masked_fill(outside, -torch.inf)


def keep_eta(logits: Tensor, history: History, eta_cutoff: float) -> Tensor:
    """Keep tokens with a probability of at least eta, and the most likely one (2210.15191).

    eta = min(cutoff, sqrt(cutoff) * exp(-entropy)).
    """
    probabilities = logits.softmax(-1)
    logprobs = logits - logits.logsumexp(-1, keepdim=True)
    cutoff = torch.tensor(eta_cutoff, device=logits.device)
    eta = torch.minimum(cutoff, cutoff.sqrt() * (-_entropy(logprobs, probabilities)).exp())
    outside = (probabilities < eta) & (logits < logits.amax(-1, keepdim=True))
    return logits.masked_fill(outside, -torch.inf)


def _entropy(logprobs: Tensor, probabilities: Tensor) -> Tensor:
    """Return the entropy of each row in nats, (rows, 1); a token without probability adds nothing."""
    return -(logprobs.clamp(min=torch.finfo(logprobs.dtype).min) * probabilities).sum(-1, keepdim=True)


def keep_top_p(logits: Tensor, history: History, top_p: float) -> Tensor:
    """Keep the fewest tokens, most likely first, with this total probability; at least one (1904.09751).

    Of equally likely tokens, those with lower ids come first.
    """
    probabilities = logits.softmax(-1)
    smallest, count = _end_of_nucleus(probabilities, top_p)
    outside = probabilities < smallest
    ties = probabilities == smallest
    if bool((ties.sum(-1, keepdim=True) > count).any()):
        outside |= ties & (ties.cumsum(-1, dtype=torch.int32) > count)
    return _without(logits, outside)


def _without(logits: Tensor, outside: Tensor) -> Tensor:
    """Return the logits with -inf outside. A sum is four times as fast as a choice if many tokens are ruled out."""
    huge = torch.finfo(logits.dtype).max
    # 0 * inf is NaN, so -inf is reached in two steps.
    return outside.to(logits.dtype).mul_(-huge).mul_(huge).add_(logits)


def _end_of_nucleus(probabilities: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return the smallest probability in the nucleus, and the number of tokens in it that have it; both (rows, 1).

    A nucleus is usually small: only the most likely tokens are sorted, and more of them only in rows where they do not
    hold `p`.
    """
    vocab = probabilities.shape[-1]
    values = probabilities.topk(min(SHORTLIST, vocab)).values
    smallest, count, is_complete = _cut(values, torch.zeros_like(values[:, :1]), p)
    if vocab > SHORTLIST and not bool(is_complete.all()):
        longer = (~is_complete[:, 0]).nonzero()[:, 0]
        smallest[longer], count[longer] = _end_in_band(probabilities[longer], values[longer, -1:], p)
    return smallest, count


def _end_in_band(probabilities: Tensor, high: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Like `_end_of_nucleus`, for rows whose tokens above `high`, (rows, 1), hold less than `p`.

    Instead of sorting everything, it bisects the probability at which the nucleus ends until few enough tokens are left
    to sort. The tokens above `low` always hold `p`, because those below (1 - p) / vocab hold at most 1 - p together.
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
    # A band cannot hold that many equal tokens.
    return _cut(probabilities.topk(vocab).values, torch.zeros_like(high), p)[:2]


def _mass_above(probabilities: Tensor, threshold: Tensor) -> Tensor:
    """Return each row's probability above its threshold. With quotients, one threshold serves all rows: 4x faster."""
    return F.threshold(probabilities / threshold, 1.0, 0.0).sum(-1, keepdim=True) * threshold


def _cut(values: Tensor, before: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find where falling `values`, with a mass of `before` above them, reach `p`.

    Return the last value that is needed, how many values equal to it are needed, and whether they reach `p`; each has
    the shape (rows, 1).
    """
    kept = before + values.cumsum(-1) - values < p
    # Even if other processors have ruled out the whole row, which makes every sum NaN.
    kept[:, 0] = True
    smallest = values.gather(-1, kept.sum(-1, keepdim=True) - 1)
    count = (kept & (values == smallest)).sum(-1, keepdim=True)
    return smallest, count, ~kept[:, -1:]


# Processors that follow each sequence.


@dataclass(frozen=True)
class Xtc:
    """XTC, as p-e-w defines it: by chance, rule out every top choice except the least likely.

    It takes one number of a sequence's random stream for every token, before the one that draws the token.
    """

    xtc_probability: float
    xtc_threshold: float

    def process(self, logits: Tensor, sequences: Sequence[SampledSequence]) -> Tensor:
        """See StatefulProcessor. Of equally likely tokens the first stays."""
        chances = [sequence.random.random() < self.xtc_probability for sequence in sequences]
        probabilities = logits.softmax(-1)
        top = probabilities >= self.xtc_threshold
        least = probabilities.masked_fill(~top, torch.inf).argmin(-1, keepdim=True)
        excluded = top.scatter(-1, least, False) & torch.tensor(chances, device=logits.device)[:, None]
        return logits.masked_fill(excluded, -torch.inf)

    def observe(self, logits: Tensor, chosen: Tensor, sequences: Sequence[SampledSequence]) -> None:
        """See StatefulProcessor; XTC does not depend on earlier tokens."""
