"""Continuous batching: sequences of any prompts, lengths and strategies share every step of the model.

A sequence that ends leaves its place in the cache to the next one at once. Prompts are encoded ahead, those of like
length together. Each sequence has a random stream of its own, so that it is the same whatever runs beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Generic, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genlm.decoding.completion import Event, Failed, Piece, Prefilled
from genlm.decoding.filters import kind_of_filters
from genlm.decoding.randomness import streams
from genlm.decoding.request import Request
from genlm.decoding.sampling import Chooser, Row, completion, grow, start
from genlm.decoding.seats import Batch, Encoded, Entry, Seat, looks_up
from genlm.errors import ModelError
from genlm.model.memory import MOST_ROWS, is_out_of_memory, rows_that_fit
from genlm.model.network import Network

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
