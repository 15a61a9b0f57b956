"""Prompt lookup: several tokens per forward pass when a text repeats itself, without changing the text.

GPT-2 likes to repeat itself. If the last few tokens occurred before in the sequence, the tokens that followed them
become a draft, and one forward pass computes the logits after each of them. Every token is still chosen from the
model's own logits, so a wrong draft wastes the rest of the pass but never changes the text. (Saxena 2023, "Prompt
Lookup Decoding"; drafting and checking: Leviathan et al. 2023, arXiv:2211.17192.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor

from genlm.decoding.request import Request
from genlm.model.network import Cache

# A draft is what followed the last occurrence of this many tokens.
NGRAM = 3
SHORTEST_DRAFT, LONGEST_DRAFT = 2, 8
# Plain steps after a draft whose first token was wrong; doubled each time in a row.
FIRST_PAUSE, LONGEST_PAUSE = 2, 32


def can_look_up(request: Request) -> bool:
    """Return whether drafts can pay off: the text is likely to repeat itself and is decoded by itself."""
    may_draft = request.speculate and not request.alone and not request.strategy.samples
    return may_draft and request.count == request.least_rows == 1


@runtime_checkable
class Rewindable(Cache, Protocol):
    """A cache of one row that takes several tokens at once and can forget the last ones."""

    @property
    def room(self) -> int:
        """How many more tokens fit."""
        ...

    def extend(self, ids: Tensor) -> Tensor:
        """Add tokens. `ids`: (rows, n). Return the logits after each, (rows * n, vocab), float32."""
        ...

    def drop(self, tokens: int) -> None:
        """Forget the last tokens."""
        ...


class Lookup:
    """The tokens of a sequence, and what last followed each n-gram in it."""

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Add a token."""
        if len(self.ids) >= NGRAM:
            self._after[tuple(self.ids[-NGRAM:])] = len(self.ids)
        self.ids.append(token)

    def draft(self, most: int) -> list[int]:
        """Return up to `most` tokens that followed the last n-gram when it occurred before; none if it did not."""
        start = self._after.get(tuple(self.ids[-NGRAM:]))
        return [] if start is None else self.ids[start : start + most]


class LookupCache:
    """A cache of one row that answers several steps with one forward pass as long as a draft is right."""

    def __init__(self, cache: Rewindable, prompt_ids: Iterable[int]) -> None:
        self._cache = cache
        self._lookup = Lookup(prompt_ids)
        # The remaining tokens of the draft, and the logits after each of them.
        self._draft: list[int] = []
        self._logits: list[Tensor] = []
        self._accepted = 0
        self._length = SHORTEST_DRAFT
        self._pause = 0
        self._next_pause = FIRST_PAUSE

    def step(self, ids: Tensor) -> Tensor:
        """See Cache."""
        token = int(ids[0])
        self._lookup.push(token)
        if self._draft and self._draft[0] == token:
            return self._accept()
        self._reject()
        return self._run(ids)

    def select(self, rows: Tensor) -> Cache:
        """See Cache. The rest of the draft is forgotten first."""
        self._reject()
        return self._cache.select(rows)

    def _accept(self) -> Tensor:
        self._draft.pop(0)
        self._accepted += 1
        self._next_pause = FIRST_PAUSE
        if not self._draft:
            self._length = min(2 * self._length, LONGEST_DRAFT)
        return self._logits.pop(0)

    def _reject(self) -> None:
        if not self._draft:
            return
        self._cache.drop(len(self._draft))
        if not self._accepted:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        self._length = max(self._length // 2, SHORTEST_DRAFT)
        self._draft, self._logits = [], []

    def _run(self, ids: Tensor) -> Tensor:
        self._draft, self._accepted = self._next_draft(), 0
        if not self._draft:
            return self._cache.step(ids)
        row = ids.new_tensor([[int(ids[0]), *self._draft]])
        logits: list[Tensor] = list(self._cache.extend(row).split(1))
        self._logits = logits[1:]
        return logits[0]

    def _next_draft(self) -> list[int]:
        if self._pause:
            self._pause -= 1
            return []
        return self._lookup.draft(min(self._length, self._cache.room - 1))
