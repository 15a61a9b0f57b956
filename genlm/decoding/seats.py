"""The rows of a cache as seats: sequences of any prompts take them, feed them token by token, and leave them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from genlm.decoding.lookup import LookupCache, Rewindable
from genlm.decoding.request import Request
from genlm.decoding.sampling import Chooser, Row
from genlm.model.graph import Capturable
from genlm.model.network import Cache, SharedCache

K = TypeVar("K")


@dataclass(eq=False)
class Entry(Generic[K]):
    """A request under way: which of its sequences have no place yet, and its prompt once that is encoded."""

    key: K
    request: Request
    chooser: Chooser
    waiting: deque[int]
    stream: Callable[[int], Random]
    encoded: Encoded | None = None
    # How many of its sequences have not ended.
    left: int = 0
    # Whether its prompt is to be encoded alone.
    is_odd: bool = False
    has_failed: bool = False

    @property
    def length(self) -> int:
        """How many tokens a sequence has at most."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens


class Encoded(NamedTuple):
    """A prompt that is encoded: its row of a cache, and the next token's logits, (1, vocab)."""

    cache: SharedCache
    row: int
    logits: Tensor


@dataclass(eq=False)
class Seat(Generic[K]):
    """A sequence under way."""

    entry: Entry[K]
    row: Row
    has_ended: bool = False

    @property
    def encoded(self) -> Encoded:
        """Its prompt; it has been encoded when a sequence of it is to take a place."""
        assert self.entry.encoded is not None
        return self.entry.encoded

    @property
    def is_over(self) -> bool:
        """Whether it needs no place any more."""
        return self.has_ended or self.entry.has_failed


class Batch(Generic[K]):
    """At most `size` sequences in the rows of one cache: the first rows, without a gap."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.seats: list[Seat[K]] = []
        self._device = device
        self._cache: SharedCache | None = None
        self._stepping: Cache | None = None

    def seat(self, seats: Sequence[Seat[K]], expected: int) -> None:
        """Give new sequences, whose prompts are encoded, the next rows of about `expected` that there will be."""
        cache = self._cache or self._fresh(seats, expected)
        for source, group in groupby(seats, lambda seat: seat.encoded.cache):
            some = list(group)
            places = range(len(self.seats), len(self.seats) + len(some))
            room = max(seat.entry.request.max_new_tokens for seat in some)
            cache.put(self._tensor(places), source, self._tensor(seat.encoded.row for seat in some), room)
            self.seats += some
        self._cache = self._stepping = cache
        self._fill()
        request = seats[0].entry.request
        if request.alone and isinstance(cache, Capturable):
            cache.never_capture()
        if self.size == 1 and looks_up(request) and isinstance(cache, Rewindable):
            self._stepping = LookupCache(cache, request.prompt_ids)

    def step(self) -> Tensor:
        """Feed every sequence its last token. Returns the next token's logits: (sequences, vocab)."""
        assert self._stepping is not None
        tokens = [seat.row.ids[-1] for seat in self.seats]
        tokens += [0] * (self._least_rows() - len(tokens))
        return self._stepping.step(self._tensor(tokens))[: len(self.seats)]

    def keep(self, seats: Sequence[Seat[K]]) -> None:
        """Go on with these alone; the last ones take the places of those that leave."""
        if not seats:
            self.clear()
        if len(seats) == len(self.seats) or self._cache is None:
            return
        kept, left = set(seats), len(seats)
        gaps = [place for place, seat in enumerate(self.seats[:left]) if seat not in kept]
        movers = [place for place, seat in enumerate(self.seats) if place >= left and seat in kept]
        if gaps:
            self._cache.put(self._tensor(gaps), self._cache, self._tensor(movers), 0)
        for gap, mover in zip(gaps, movers, strict=True):
            self.seats[gap] = self.seats[mover]
        del self.seats[left:]
        self._cache.crop(left)
        self._fill()

    def clear(self) -> None:
        """Let all sequences go, and the memory."""
        self.seats = []
        self._cache = self._stepping = None

    def _fresh(self, seats: Sequence[Seat[K]], expected: int) -> SharedCache:
        rows = max(expected, len(seats), seats[0].entry.request.least_rows)
        return seats[0].encoded.cache.fresh(rows, max(seat.entry.length for seat in seats))

    def _fill(self) -> None:
        """Run copies of the first sequence beside too few."""
        missing = range(len(self.seats), self._least_rows())
        if missing and self._cache is not None:
            self._cache.put(self._tensor(missing), self._cache, self._tensor([0] * len(missing)), 0)

    def _least_rows(self) -> int:
        return max(len(self.seats), self.seats[0].entry.request.least_rows)

    def _tensor(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self._device)


def looks_up(request: Request) -> bool:
    """Whether drafts can pay: a text that is likely to repeat itself, and is alone."""
    may_draft = request.speculate and not request.alone and not request.strategy.samples
    return may_draft and request.count == request.least_rows == 1
