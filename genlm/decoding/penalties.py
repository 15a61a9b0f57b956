"""What a strategy takes from single tokens, or adds to them, for what stands so far; some it rules out.

Logits have the shape (rows, vocab), float32; what comes back is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

# History is every token of each row so far, the prompt's included.
History = Sequence[Sequence[int]]
# How many repeated tokens DRY counts at most, and the most that it takes from a logit.
LONGEST_REPEAT, LARGEST_PENALTY = 50, 1e6


def add_biases(logits: Tensor, biases: Mapping[int, float]) -> Tensor:
    """Add its bias to the logit of each token that has one (as OpenAI's API)."""
    logits = logits.clone()
    logits[:, list(biases)] += torch.tensor(list(biases.values()), device=logits.device)
    return logits


def penalise_repetition(logits: Tensor, history: History, penalty: float) -> Tensor:
    """Divide the positive logits of tokens already seen by `penalty`, multiply the negative ones (CTRL, 1909.05858)."""
    penalty = within_float32(penalty)
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


def within_float32(divisor: float) -> float:
    """The divisor, or the nearest that float32 takes for neither zero nor infinite."""
    limits = torch.finfo(torch.float32)
    return min(max(divisor, limits.tiny), limits.max)
