"""Prompt lookup: several tokens a forward pass where a text repeats itself, with nothing of it changed.

GPT-2 likes to say again what it said. Where the last few tokens stood in the sequence before, those that followed
there are drafted, and one forward pass tells what the model makes of all of them. The loop still chooses every token
from the model's own logits: a draft that it does not choose costs the rest of the pass, never another text.
(Saxena 2023, "Prompt Lookup Decoding"; Leviathan et al. 2023, arXiv:2211.17192, for drafting and checking.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from genlm.model.network import Cache

# So many tokens must have stood in the sequence before, for what followed them to be a draft.
NGRAM = 3
SHORTEST, LONGEST = 2, 8
# After a draft that failed at its first token, as many plain steps; twice as many each time it happens again.
FIRST_REST, LONGEST_REST = 2, 32


@runtime_checkable
class Rewindable(Cache, Protocol):
    """A cache of one row that takes several tokens at once, and gives the last ones back."""

    @property
    def room(self) -> int:
        """How many more tokens it can take."""
        ...

    def extend(self, ids: Tensor) -> Tensor:
        """Add tokens. `ids`: (rows, n). Returns the logits after each, (rows * n, vocab), float32."""
        ...

    def drop(self, tokens: int) -> None:
        """Forget the last tokens."""
        ...


class Lookup:
    """The sequence so far, and where each n-gram in it was last followed by something."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Add a token: it follows the n-gram before it."""
        if len(self.ids) >= NGRAM:
            self._after[tuple(self.ids[-NGRAM:])] = len(self.ids)
        self.ids.append(token)

    def draft(self, most: int) -> list[int]:
        """What followed when the last n-gram stood here before: up to `most` tokens, none where it did not."""
        start = self._after.get(tuple(self.ids[-NGRAM:]))
        return [] if start is None else self.ids[start : start + most]


class LookupCache:
    """A cache of one row that answers several steps with one forward pass where drafts hold."""

    def __init__(self, cache: Rewindable, prompt_ids: Sequence[int]) -> None:
        self._cache = cache
        self._lookup = Lookup(prompt_ids)
        self._drafted: list[int] = []
        self._answers: list[Tensor] = []
        self._accepted = 0
        self._length = SHORTEST
        self._rest = 0
        self._next_rest = FIRST_REST

    def step(self, ids: Tensor) -> Tensor:
        """See Cache."""
        token = int(ids[0])
        self._lookup.push(token)
        if self._drafted and self._drafted[0] == token:
            return self._accept()
        self._reject()
        return self._run(ids)

    def take(self, rows: Tensor) -> Cache:
        """See Cache; what is drafted is given back first."""
        self._reject()
        return self._cache.take(rows)

    def _accept(self) -> Tensor:
        self._drafted.pop(0)
        self._accepted += 1
        self._next_rest = FIRST_REST
        if not self._drafted:
            self._length = min(2 * self._length, LONGEST)
        return self._answers.pop(0)

    def _reject(self) -> None:
        if not self._drafted:
            return
        self._cache.drop(len(self._drafted))
        if not self._accepted:
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
        self._length = max(self._length // 2, SHORTEST)
        self._drafted, self._answers = [], []

    def _run(self, ids: Tensor) -> Tensor:
        self._drafted, self._accepted = self._draft(), 0
        if not self._drafted:
            return self._cache.step(ids)
        row = ids.new_tensor([[int(ids[0]), *self._drafted]])
        answers: list[Tensor] = list(self._cache.extend(row).split(1))
        self._answers = answers[1:]
        return answers[0]

    def _draft(self) -> list[int]:
        if self._rest:
            self._rest -= 1
            return []
        return self._lookup.draft(min(self._length, self._cache.room - 1))
