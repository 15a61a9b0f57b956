"""A text of any length through a model of a limited context, by a window that slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genlm.errors import UsageError

if TYPE_CHECKING:
    from genlm.decoding.distribution import Scores
    from genlm.model.network import Network

# The window of a model whose context has no end.
UNBOUNDED = 1024
# The logits of one forward pass may take this much, and its rows hold this many tokens.
LOGITS_BYTES = 1 << 27
MOST_TOKENS = 1024


@dataclass(frozen=True)
class Window:
    """Tokens to run at once: each of `inputs` but the first `skip` tells how likely its target was.

    `targets` has one token for each of these; `is_last` marks the end of a text.
    """

    inputs: Sequence[int]
    skip: int
    targets: Sequence[int]
    is_last: bool


@dataclass(frozen=True)
class Sliding:
    """Windows of `size` tokens that start every `stride` tokens.

    A window counts only what the one before did not reach, so from the second window on every token has at least
    `size - stride` tokens before it: a small stride costs more and gives the model more to go by.
    """

    size: int
    stride: int

    @classmethod
    def over(cls, context: int | None, stride: int | None) -> Sliding:
        """Windows as long as the context, by default half overlapping. Raises UsageError for a stride beyond it."""
        size = context or UNBOUNDED
        chosen = max(1, size // 2) if stride is None else stride
        if not 1 <= chosen <= size:
            raise UsageError(f"the stride must be from 1 to the model's context of {size}, not {chosen}")
        return cls(size, chosen)

    def windows(self, parts: Iterable[Sequence[int]]) -> Iterator[Window]:
        """The windows over a text whose ids come in parts; at least one, though it may be empty."""
        ids: list[int] = []
        skip = 0
        for part in parts:
            ids += part
            at = 0
            while len(ids) - at > self.size + 1:
                yield self._window(ids[at : at + self.size + 1], skip, is_last=False)
                at += self.stride
                skip = self.size - self.stride
            del ids[:at]
        yield self._window(ids, skip, is_last=True)

    def _window(self, ids: Sequence[int], skip: int, *, is_last: bool) -> Window:
        return Window(ids[:-1], skip, ids[skip + 1 :], is_last)


def score_windows(network: Network, windows: Sequence[Window]) -> list[Scores | None]:
    """How likely the targets of each window were, windows of like length together; None for one without any."""
    scores: list[Scores | None] = [None] * len(windows)
    order = [at for at in sorted(range(len(windows)), key=lambda at: len(windows[at].inputs)) if windows[at].targets]
    for group in _groups(windows, order, tokens_at_once(network)):
        for at, score in zip(group, _score_group(network, [windows[at] for at in group]), strict=True):
            scores[at] = score
    return scores


def tokens_at_once(network: Network) -> int:
    """How many tokens one forward pass takes."""
    return max(1, min(MOST_TOKENS, LOGITS_BYTES // (4 * network.vocab_size)))


def _groups(windows: Sequence[Window], order: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut `order`, shortest windows first, into groups of at most `most` tokens with their padding."""
    group: list[int] = []
    for at in order:
        if group and (len(group) + 1) * len(windows[at].inputs) > most:
            yield group
            group = []
        group.append(at)
    if group:
        yield group


def _score_group(network: Network, windows: Sequence[Window]) -> Iterator[Scores]:
    import torch

    from genlm.decoding.distribution import Scores, score_tokens

    logits = network.logits_of([window.inputs for window in windows], [window.skip for window in windows])
    targets = torch.tensor([token for window in windows for token in window.targets], device=logits.device)
    scores = score_tokens(logits, targets)
    lengths = [len(window.targets) for window in windows]
    columns = (scores.logprobs, scores.ranks, scores.entropies)
    return (Scores(*parts) for parts in zip(*(column.split(lengths) for column in columns), strict=True))
