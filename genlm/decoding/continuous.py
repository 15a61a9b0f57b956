"""Continuous batching: sequences of any prompts, lengths and strategies share every step of the model.

A sequence that ends leaves its place in the cache to the next one at once. Prompts are encoded ahead, those of like
length together. Each sequence has a random stream of its own, so that it is the same whatever runs beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from random import Random
from typing import Generic, NamedTuple, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genlm.decoding.completion import Event, Failed, Piece, Prefilled
from genlm.decoding.filters import kind_of_filters
from genlm.decoding.lookup import LookupCache, Rewindable
from genlm.decoding.randomness import streams
from genlm.decoding.request import Request
from genlm.decoding.sampling import Chooser, Row, completion, grow, start
from genlm.errors import ModelError
from genlm.model.graph import Capturable
from genlm.model.memory import MOST_ROWS, is_out_of_memory, rows_that_fit
from genlm.model.network import Cache, Network, SharedCache

K = TypeVar("K")
# The events of a request that cannot share steps with others, or None where it can.
Separately: TypeAlias = Callable[[Request], Iterator[Event] | None]

# So many requests are looked at to find prompts of like length.
WINDOW = 512
# Prompts are encoded together up to so many tokens, the padding included.
ENCODED_TOKENS = 1024


def sample(network: Network, request: Request) -> Iterator[Event]:
    """Decode `request.count` sequences, as many at once as pay and the memory holds.

    Raises:
        ModelError: logits that are not numbers, or no token left to choose.
    """
    if request.alone:
        request = replace(request, least_rows=1)
    size = 1 if request.alone or looks_up(request) else None
    loop = _Loop(network, iter([(None, request)]), size, lambda _: None, lambda: False, is_tolerant=False)
    return (cast(Event, event) for _, event in loop.run())


def decode_together(
    network: Network,
    requests: Iterable[tuple[K, Request | Failed]],
    size: int | None,
    separately: Separately,
    is_stopping: Callable[[], bool],
) -> Iterator[tuple[K, Event | Failed]]:
    """See `decode_many`."""
    return _Loop(network, iter(requests), size, separately, is_stopping, is_tolerant=True).run()


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


class _Loop(Generic[K]):
    """The sequences under way, and the requests that wait: looked at, then encoded.

    Where something fails of several at once, they run one by one, to find out which of them it was.
    """

    def __init__(
        self,
        network: Network,
        requests: Iterator[tuple[K, Request | Failed]],
        size: int | None,
        separately: Separately,
        is_stopping: Callable[[], bool],
        *,
        is_tolerant: bool,
    ) -> None:
        self.network = network
        self.requests = requests
        self.is_auto = size is None
        self.separately = separately
        self.is_stopping = is_stopping
        self.is_tolerant = is_tolerant
        self.batch: Batch[K] = Batch(size or MOST_ROWS, network.device)
        # The longest prompt last, which is the next.
        self.window: list[Entry[K]] = []
        self.encoded: deque[Entry[K]] = deque()
        self.separate: deque[tuple[K, Iterator[Event]]] = deque()
        self.refused: deque[tuple[K, Failed]] = deque()
        self.choosers: WeakValueDictionary[Hashable, Chooser] = WeakValueDictionary()
        self.longest = 0
        # What is on its way from the window to the encoded, and from there to the batch.
        self.encoding: list[Entry[K]] = []
        self.arriving: list[Seat[K]] = []
        self.encodes_ahead = True
        # As long as there are any, sequences run one by one.
        self.suspects: set[Entry[K]] = set()

    def run(self) -> Iterator[tuple[K, Event | Failed]]:
        """The events, to the end."""
        while self._has_work():
            while self.refused:
                yield self.refused.popleft()
            failure = None
            try:
                yield from self._turn()
            # A model may fail of anything.
            except Exception as error:
                if not self.is_tolerant:
                    raise
                # The frames of its traceback would hold on to memory.
                failure = error.with_traceback(None)
            if failure is not None:
                yield from self._recover(failure)

    def _has_work(self) -> bool:
        """Take in requests where none wait. Whether there is anything left to do."""
        if self.is_stopping():
            self._send_away()
        elif not self.window and not self.separate:
            self._look_ahead()
        return bool(self.refused or self.batch.seats or self.window or self.encoded or self.separate)

    def _turn(self) -> Iterator[tuple[K, Event | Failed]]:
        """One more token of every sequence under way, once those that wait have taken the free places."""
        yield from self._admit()
        if self.batch.seats:
            going_on = yield from self._advance(self.batch.seats, self.batch.step())
            self.batch.keep(going_on)
        elif self.separate and not self.window:
            yield from self._run_separately(*self.separate.popleft())

    def _run_separately(self, key: K, events: Iterator[Event]) -> Iterator[tuple[K, Event | Failed]]:
        try:
            for event in events:
                yield key, event
        except Exception as error:
            if not self.is_tolerant:
                raise
            yield key, Failed(error)

    # From a request to a place in the batch.

    def _look_ahead(self) -> None:
        """Take in the next requests."""
        for key, request in islice(self.requests, WINDOW):
            if isinstance(request, Failed):
                self.refused.append((key, request))
            elif (events := self.separately(request)) is not None:
                self.separate.append((key, events))
            else:
                self.window.append(self._entry(key, request))
        self.window.sort(key=lambda entry: len(entry.request.prompt_ids))
        longest = max((entry.length for entry in self.window), default=0)
        if self.is_auto and longest > self.longest:
            self.longest = longest
            self.batch.size = min(self.batch.size, rows_that_fit(self.network, longest))

    def _entry(self, key: K, request: Request) -> Entry[K]:
        waiting, stream = deque(range(request.count)), streams(request.seed, request.prompt_ids)
        return Entry(key, request, self._chooser(request), waiting, stream, left=request.count)

    def _send_away(self) -> None:
        """Let nothing go on but the sequences under way."""
        for entry in self.encoded:
            entry.waiting.clear()
        self._forget_seated()
        self.window.clear()
        self.separate.clear()

    def _chooser(self, request: Request) -> Chooser:
        kind = kind_of_filters(request)
        chooser = self.choosers.get(kind)
        if chooser is None:
            chooser = self.choosers[kind] = Chooser(request)
        return chooser

    def _admit(self) -> Iterator[tuple[K, Event | Failed]]:
        """Give the free places to sequences that wait; each chooses its first token before it takes one."""
        while (free := self._free()) > 0 and (self.encoded or self.window):
            if not self.encoded:
                yield from self._encode()
            expected = self._expected()
            self.arriving = self._next_seats(free)
            logits = torch.cat([seat.encoded.logits for seat in self.arriving])
            going_on = yield from self._advance(self.arriving, logits)
            if going_on:
                self.batch.seat(going_on, expected)
            self.arriving = []
            self._forget_seated()
        if self.window and not self.encoded and self.encodes_ahead and not self.suspects:
            yield from self._encode()

    def _free(self) -> int:
        return (1 if self.suspects else self.batch.size) - len(self.batch.seats)

    def _expected(self) -> int:
        """How many sequences may come to run at once."""
        waiting = sum(len(entry.waiting) for entry in (*self.window, *self.encoded))
        return min(self.batch.size, len(self.batch.seats) + waiting)

    def _next_seats(self, most: int) -> list[Seat[K]]:
        """The sequences whose turn it is."""
        seats: list[Seat[K]] = []
        for entry in self.encoded:
            while entry.waiting and len(seats) < most:
                index = entry.waiting.popleft()
                seats.append(Seat(entry, start(entry.request, index, entry.stream(index))))
        return seats

    def _forget_seated(self) -> None:
        """Give back the memory of prompts that nothing waits for."""
        while self.encoded and not self.encoded[0].waiting:
            self.encoded.popleft().encoded = None

    def _encode(self) -> Iterator[tuple[K, Event]]:
        """Encode the next prompts, of like length, together."""
        self.encoding = [self.window.pop()]
        longest = len(self.encoding[0].request.prompt_ids)
        while self._has_alike() and (len(self.encoding) + 1) * longest <= ENCODED_TOKENS:
            self.encoding.append(self.window.pop())
        prompts = [entry.request.prompt_ids for entry in self.encoding]
        logits, cache = self.network.prefill(prompts, 0)
        for row, entry in enumerate(self.encoding):
            entry.encoded = Encoded(cache, row, logits[row : row + 1])
        encoded, self.encoding = self.encoding, []
        self.encoded += encoded
        for entry in encoded:
            yield entry.key, Prefilled()

    def _has_alike(self) -> bool:
        return bool(self.window) and not (self.window[-1].is_odd or self.encoding[0].is_odd)

    # A token of each sequence.

    def _advance(
        self, seats: Sequence[Seat[K]], logits: Tensor
    ) -> Generator[tuple[K, Event | Failed], None, list[Seat[K]]]:
        """Let each sequence choose a token. `logits`: (sequences, vocab). Returns those that go on."""
        for seat, token in zip(seats, self._choose(seats, logits), strict=True):
            if isinstance(token, Exception):
                yield from self._fail(seat.entry, token)
            else:
                yield from self._grow(seat, token)
        return [seat for seat in seats if not seat.is_over]

    def _choose(self, seats: Sequence[Seat[K]], logits: Tensor) -> list[int | ModelError]:
        """The next token of each sequence, or why there is none."""
        groups: dict[Chooser, list[int]] = {}
        for place, seat in enumerate(seats):
            groups.setdefault(seat.entry.chooser, []).append(place)
        tokens: list[int | ModelError] = [0] * len(seats)
        for chooser, places in groups.items():
            own = logits if len(groups) == 1 else logits[places]
            rows = [seats[place].row for place in places]
            for place, token in zip(places, self._choose_alike(chooser, own, rows), strict=True):
                tokens[place] = token
        return tokens

    def _choose_alike(self, chooser: Chooser, logits: Tensor, rows: Sequence[Row]) -> Sequence[int | ModelError]:
        try:
            return chooser.choose(logits, rows)
        except ModelError as error:
            if not self.is_tolerant:
                raise
            if len(rows) == 1:
                return [error]
        one_by_one = zip(logits.split(1), rows, strict=True)
        return [token for own, row in one_by_one for token in self._choose_alike(chooser, own, [row])]

    def _grow(self, seat: Seat[K], token: int) -> Iterator[tuple[K, Event]]:
        key, row = seat.entry.key, seat.row
        text, reason = grow(row, token)
        if text:
            yield key, Piece(row.index, text)
        if reason is not None:
            seat.has_ended = True
            seat.entry.left -= 1
            if not seat.entry.left:
                self.suspects.discard(seat.entry)
            yield key, completion(row, reason)

    # What goes wrong.

    def _fail(self, entry: Entry[K], error: Exception) -> Iterator[tuple[K, Failed]]:
        """End a request and all its sequences."""
        if not entry.has_failed:
            entry.has_failed = True
            entry.waiting.clear()
            self.suspects.discard(entry)
            self._forget_seated()
            yield entry.key, Failed(error)

    def _recover(self, failure: Exception) -> Iterator[tuple[K, Failed]]:
        """Go on after a failure, without what failed where that is clear."""
        is_short = is_out_of_memory(failure)
        encoding, self.encoding = self.encoding, []
        seats = [seat for seat in (*self.batch.seats, *self.arriving) if not seat.is_over]
        if is_short and self.encodes_ahead and seats:
            self.encodes_ahead = False
            self.window += encoding
            if not encoding:
                self._start_anew(seats)
        elif encoding and not (is_short and seats):
            yield from self._doubt(encoding, failure)
        elif len(seats) == 1 and not encoding:
            self._start_anew(seats)
            yield from self._fail(seats[0].entry, failure)
        else:
            self.window += encoding
            self._start_anew(seats)
            if is_short:
                self.batch.size = max(1, len(seats) // 2)
            else:
                self.suspects = {seat.entry for seat in seats}

    def _doubt(self, entries: Sequence[Entry[K]], failure: Exception) -> Iterator[tuple[K, Failed]]:
        """Prompts that could not be encoded together are to be encoded one by one."""
        if len(entries) == 1:
            yield from self._fail(entries[0], failure)
            return
        for entry in entries:
            entry.is_odd = True
        self.window += entries

    def _start_anew(self, seats: Sequence[Seat[K]]) -> None:
        """Let these sequences and all that is encoded wait again, and give the memory back."""
        entries = {seat.entry: None for seat in seats} | dict.fromkeys(self.encoded)
        for seat in seats:
            seat.entry.waiting.append(seat.row.index)
        for entry in entries:
            entry.encoded = None
        self.encoded.clear()
        self.arriving = []
        self.batch.clear()
        self.window += [entry for entry in entries if entry.waiting]
