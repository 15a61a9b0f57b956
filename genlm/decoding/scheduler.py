"""Continuous batching: sequences of any prompts, lengths and strategies share every step of the model.

    submit ──► Queue ──► prefill ──► Slots ──► decode steps ──► events
               waiting   prefilled   running                    finished

A sequence that ends frees its slot for the next one at once. Prompts are prefilled ahead, those of similar length
together. Each sequence has its own random stream, so its tokens do not depend on its neighbours. When a step fails, the
scheduler finds out whether the memory or one of the requests is to blame, and continues without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, groupby
from typing import TypeAlias
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genlm.decoding.completion import Event, Failed, Piece, Prefilled
from genlm.decoding.lookup import LookupCache, Rewindable, can_look_up
from genlm.decoding.processors import processors_key
from genlm.decoding.request import PrefilledPrompt, Request, Sequence, Status
from genlm.decoding.sampling import Sampler, choose_tokens
from genlm.model.graph import Capturable
from genlm.model.memory import MOST_ROWS, is_out_of_memory, rows_that_fit
from genlm.model.network import Cache, Network, SharedCache

# Returns the events of a request that cannot share steps with others, or None if it can.
RunSeparately: TypeAlias = Callable[[Request], Iterator[Event] | None]

# Prompts of similar length are looked for among this many requests.
WINDOW = 512
# Prompts are prefilled together up to this many tokens, padding included.
PREFILL_TOKENS = 1024


@dataclass(eq=False)
class SequenceGroup:
    """A request and its sequences. `events` is given if it runs separately, `sampler` if it shares steps."""

    id: int
    request: Request
    sequences: list[Sequence]
    unfinished: int
    sampler: Sampler | None
    events: Iterator[Event] | None
    # Whether its prompt is prefilled alone, because a prefill that it shared has failed.
    prefill_alone: bool = False

    def with_status(self, *statuses: Status) -> list[Sequence]:
        """Return the sequences that have one of these statuses."""
        return [sequence for sequence in self.sequences if sequence.status in statuses]


class Queue:
    """The requests and sequences that do not run yet. Decides which are next.

    Requests are taken from `submitted` a window at a time, and the longest prompts of a window go first. A new window
    starts when no request of the last one waits, so none waits forever. Requests that run separately come last in
    their window.
    """

    def __init__(self, window: int, prefill_tokens: int) -> None:
        self.submitted: deque[SequenceGroup] = deque()
        # The next one is last.
        self.waiting: list[SequenceGroup] = []
        # The first one may be running.
        self.separate: deque[SequenceGroup] = deque()
        self.prefilled: deque[Sequence] = deque()
        self._window = window
        self._prefill_tokens = prefill_tokens

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self.submitted) + len(self.waiting) + len(self.separate)

    def next_window(self) -> int:
        """Start a new window if the last one is used up. Return the length of its longest sequence, or 0."""
        if self.waiting or self.separate:
            return 0
        for _ in range(min(self._window, len(self.submitted))):
            group = self.submitted.popleft()
            (self.waiting if group.events is None else self.separate).append(group)
        self.waiting.sort(key=lambda group: len(group.request.prompt_ids))
        return max((group.request.max_length for group in self.waiting), default=0)

    def pop_prompts(self) -> list[SequenceGroup]:
        """Remove and return the requests whose prompts are prefilled together next."""
        groups = [self.waiting.pop()]
        longest = len(groups[0].request.prompt_ids)
        while (
            self.waiting
            and (len(groups) + 1) * longest <= self._prefill_tokens
            and not (groups[0].prefill_alone or self.waiting[-1].prefill_alone)
        ):
            groups.append(self.waiting.pop())
        return groups

    def pop_prefilled(self, most: int) -> list[Sequence]:
        """Remove and return up to `most` sequences that start next."""
        return [self.prefilled.popleft() for _ in range(min(most, len(self.prefilled)))]

    def num_sequences(self) -> int:
        """Return how many sequences of this window wait for a slot."""
        return len(self.prefilled) + sum(len(group.with_status(Status.WAITING)) for group in self.waiting)

    def remove(self, group: SequenceGroup) -> None:
        """Remove a request, wherever it waits."""
        for groups in (self.submitted, self.waiting, self.separate):
            if group in groups:
                groups.remove(group)
        self.prefilled = deque(sequence for sequence in self.prefilled if sequence.request_id != group.id)


class Slots:
    """Up to `capacity` running sequences in the first rows of one KV cache, without gaps."""

    def __init__(self, network: Network, capacity: int | None) -> None:
        self.sequences: list[Sequence] = []
        self.capacity = MOST_ROWS if capacity is None else capacity
        self._network = network
        self._is_auto = capacity is None
        self._longest = 0
        self._cache: SharedCache | None = None
        # The cache to step: `_cache` itself or, for a single sequence, one that speculates.
        self._stepping: Cache | None = None

    def fit(self, length: int) -> None:
        """Lower the capacity to the sequences of `length` tokens that pay off and fit, unless it was given."""
        if self._is_auto and length > self._longest:
            self._longest = length
            self.capacity = min(self.capacity, rows_that_fit(self._network, length))

    def add(self, sequences: list[Sequence], expected: int) -> None:
        """Give slots to prefilled sequences. If there is no cache yet, create one for `expected` sequences."""
        request, cache = sequences[0].request, self._cache
        if cache is None:
            count = max(min(self.capacity, expected), len(sequences), request.least_rows)
            length = max(each.request.max_length for each in sequences)
            cache = _prompt(sequences[0]).cache.new_empty(count, length)
        for source, group in groupby(sequences, lambda sequence: _prompt(sequence).cache):
            entering = list(group)
            slots = range(len(self.sequences), len(self.sequences) + len(entering))
            rows = self._tensor(_prompt(sequence).row for sequence in entering)
            cache.insert(self._tensor(slots), source, rows, max(each.request.max_new_tokens for each in entering))
            self.sequences += entering
        self._cache = self._stepping = cache
        self._pad()
        if request.alone and isinstance(cache, Capturable):
            cache.never_capture()
        if self.capacity == 1 and can_look_up(request) and isinstance(cache, Rewindable):
            self._stepping = LookupCache(cache, request.prompt_ids)

    def step(self) -> Tensor:
        """Feed every sequence its last token. Return the logits of the next tokens, (sequences, vocab)."""
        assert self._stepping is not None
        tokens = [sequence.ids[-1] for sequence in self.sequences]
        tokens += [0] * (self._min_rows() - len(tokens))
        return self._stepping.step(self._tensor(tokens))[: len(self.sequences)]

    def keep(self, sequences: list[Sequence]) -> None:
        """Free the slots of all other sequences; the last sequences move into the gaps."""
        if not sequences:
            self.clear()
        if len(sequences) == len(self.sequences) or self._cache is None:
            return
        kept, count = set(sequences), len(sequences)
        gaps = [slot for slot, sequence in enumerate(self.sequences[:count]) if sequence not in kept]
        movers = [slot for slot, sequence in enumerate(self.sequences) if slot >= count and sequence in kept]
        if gaps:
            self._cache.insert(self._tensor(gaps), self._cache, self._tensor(movers), 0)
        for gap, mover in zip(gaps, movers, strict=True):
            self.sequences[gap] = self.sequences[mover]
        del self.sequences[count:]
        self._cache.keep_first(count)
        self._pad()

    def clear(self) -> None:
        """Free all slots and the memory of the cache."""
        self.sequences = []
        self._cache = self._stepping = None

    def _pad(self) -> None:
        """Copy the first sequence into as many rows as a step needs at least."""
        missing = range(len(self.sequences), self._min_rows())
        if missing and self._cache is not None:
            self._cache.insert(self._tensor(missing), self._cache, self._tensor([0] * len(missing)), 0)

    def _min_rows(self) -> int:
        return max(len(self.sequences), self.sequences[0].request.least_rows)

    def _tensor(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self._network.device)


def _prompt(sequence: Sequence) -> PrefilledPrompt:
    assert sequence.prompt is not None, "only prefilled sequences enter a slot"
    return sequence.prompt


class Scheduler:
    """Runs any number of requests at once. The caller drives it step by step:

        id = scheduler.submit(request)
        while scheduler.has_work:
            for id, event in scheduler.step():
                ...

    Requests can be submitted and cancelled between any two steps. The scheduler is not thread-safe: one thread owns it,
    and others hand their requests to that thread. It should be the thread that loaded the model, because OpenMP keeps a
    pool of threads for each thread that computes.

    A request has a `Prefilled` event, then `Piece` events with the text of its sequences and a `Completion` for each;
    or `Failed`, after which nothing follows. If `Prefilled` comes again, memory or a neighbour failed, and its
    unfinished sequences start over: their pieces are repeated, and their completions are the same. With `recover` off,
    nothing starts over and `step` raises whatever fails; the scheduler cannot be used afterwards.

    At most `max_sequences` run at once; by default, as many as pay off and fit in memory.
    """

    def __init__(
        self,
        network: Network,
        run_separately: RunSeparately = lambda _: None,
        *,
        max_sequences: int | None = None,
        recover: bool = True,
        window: int = WINDOW,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self._network = network
        self._run_separately = run_separately
        self._recovers = recover
        self.window = window
        self._queue = Queue(window, prefill_tokens)
        self._slots = Slots(network, max_sequences)
        # Every request that has not ended.
        self._groups: dict[int, SequenceGroup] = {}
        self._ids = count()
        self._samplers: WeakValueDictionary[Hashable, Sampler] = WeakValueDictionary()
        self._events: list[tuple[int, Event | Failed]] = []
        self._is_draining = False
        self._prefills_ahead = True
        # The requests whose step failed. As long as there are any, sequences run one by one.
        self._suspects: set[int] = set()

    # The interface.

    def submit(self, request: Request) -> int:
        """Queue a request. Return its id. Raise RuntimeError after `drain`."""
        if self._is_draining:
            raise RuntimeError("the scheduler is draining: it takes no more requests")
        id = next(self._ids)
        sequences = [Sequence(request, index, id) for index in range(request.count)]
        events = self._run_separately(request)
        sampler = self._sampler(request) if events is None else None
        group = SequenceGroup(id, request, sequences, len(sequences), sampler, events)
        self._groups[id] = group
        self._queue.submitted.append(group)
        return id

    def cancel(self, id: int) -> None:
        """Drop a request and free its slots and memory at once. Do nothing if it has ended."""
        group = self._groups.get(id)
        if group is not None:
            self._end(group, Status.CANCELLED)
            self._free_slots()

    def drain(self) -> list[int]:
        """Drop every sequence that does not run yet and take no more requests; running sequences continue.

        Return the ids of the requests that lost sequences.
        """
        self._is_draining = True
        affected = []
        for group in list(self._groups.values()):
            dropped = group.with_status(Status.WAITING, Status.PREFILLED)
            group.unfinished -= len(dropped)
            for sequence in dropped:
                sequence.end(Status.CANCELLED)
            if dropped:
                self._queue.remove(group)
                affected.append(group.id)
            if not group.unfinished:
                self._end(group, Status.CANCELLED)
        return affected

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._groups)

    @property
    def num_waiting(self) -> int:
        """How many requests wait for their prompt to be prefilled, or for their turn to run separately."""
        return len(self._queue)

    def __contains__(self, id: int) -> bool:
        """Whether the request with this id has not ended."""
        return id in self._groups

    # Scheduling: what a step does.

    def step(self) -> list[tuple[int, Event | Failed]]:
        """Do the next piece of work. Return its events, each with the id of its request.

        A step prefills some prompts, starts prefilled sequences, decodes one token of every running sequence, or takes
        one event of a request that runs separately.
        """
        queue, slots = self._queue, self._slots
        slots.fit(queue.next_window())
        max_running = 1 if self._suspects else slots.capacity
        free = max_running - len(slots.sequences)
        prefills_ahead = self._prefills_ahead and not self._suspects
        if queue.prefilled and free > 0:
            self._start(queue.pop_prefilled(free))
        elif queue.waiting and not queue.prefilled and (free > 0 or prefills_ahead):
            self._prefill(queue.pop_prompts())
        elif slots.sequences:
            self._decode()
        elif queue.separate:
            self._advance_separate(queue.separate[0])
        events, self._events = self._events, []
        return events

    # Stepping.

    def _prefill(self, groups: list[SequenceGroup]) -> None:
        """Prefill the prompts of some requests together."""
        try:
            logits, cache = self._network.prefill([group.request.prompt_ids for group in groups], 0)
        except Exception as error:
            self._recover_prefill(self._caught(error), groups)
            return
        for row, group in enumerate(groups):
            prompt = PrefilledPrompt(cache, row, logits[row : row + 1])
            for sequence in group.with_status(Status.WAITING):
                sequence.status, sequence.prompt = Status.PREFILLED, prompt
                self._queue.prefilled.append(sequence)
            self._emit(group, Prefilled())

    def _start(self, sequences: list[Sequence]) -> None:
        """Choose the first token of prefilled sequences, and give slots to those that continue."""
        try:
            # The first sequences in a cache decide its size.
            expected = 0 if self._slots.sequences else len(sequences) + self._queue.num_sequences()
            self._advance(sequences, torch.cat([each.prompt.logits for each in sequences if each.prompt is not None]))
            starting = [sequence for sequence in sequences if sequence.status is Status.PREFILLED]
            if starting:
                self._slots.add(starting, expected)
            for sequence in starting:
                sequence.status, sequence.prompt = Status.RUNNING, None
            self._free_slots()
        except Exception as error:
            self._recover_decode(self._caught(error), [*self._slots.sequences, *sequences])

    def _decode(self) -> None:
        """Decode one token of every running sequence."""
        try:
            self._advance(self._slots.sequences, self._slots.step())
            self._free_slots()
        except Exception as error:
            self._recover_decode(self._caught(error), self._slots.sequences)

    def _advance_separate(self, group: SequenceGroup) -> None:
        """Take the next event of a request that runs separately."""
        assert group.events is not None
        for sequence in group.with_status(Status.WAITING):
            sequence.status = Status.RUNNING
        try:
            event = next(group.events, None)
        except Exception as error:
            self._fail(group, self._caught(error))
            return
        if event is None:
            self._end(group, Status.FINISHED)
        else:
            self._emit(group, event)

    def _advance(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Add a token to each sequence. `logits`: (sequences, vocab)."""
        groups = [self._groups[sequence.request_id] for sequence in sequences]
        samplers = [group.sampler for group in groups if group.sampler is not None]
        tokens = choose_tokens(samplers, logits, sequences, isolate=self._recovers)
        for group, sequence, token in zip(groups, sequences, tokens, strict=True):
            # Another sequence of the request may just have failed.
            if sequence.status is Status.FAILED:
                continue
            if isinstance(token, Exception):
                self._fail(group, token)
            else:
                self._append(group, sequence, token)

    def _append(self, group: SequenceGroup, sequence: Sequence, token: int) -> None:
        text, reason = sequence.append(token)
        if text:
            self._emit(group, Piece(sequence.index, text))
        if reason is not None:
            sequence.end(Status.FINISHED)
            self._emit(group, sequence.completion(reason))
            group.unfinished -= 1
            if not group.unfinished:
                self._forget(group)

    # Failure recovery.

    def _recover_prefill(self, error: Exception, groups: list[SequenceGroup]) -> None:
        """Continue after the prompts of some requests could not be prefilled together."""
        self._queue.waiting += groups
        running = len(self._slots.sequences)
        if is_out_of_memory(error) and running:
            if self._prefills_ahead:
                self._prefills_ahead = False
            else:
                self._restart()
                self._slots.capacity = max(1, running // 2)
        elif len(groups) == 1:
            self._fail(groups[0], error)
        else:
            for group in groups:
                group.prefill_alone = True

    def _recover_decode(self, error: Exception, sequences: Iterable[Sequence]) -> None:
        """Continue after a step of these sequences failed."""
        failed = [each for each in dict.fromkeys(sequences) if each.status in (Status.PREFILLED, Status.RUNNING)]
        self._restart()
        if is_out_of_memory(error) and self._prefills_ahead:
            self._prefills_ahead = False
        elif len(failed) == 1:
            self._fail(self._groups[failed[0].request_id], error)
        elif is_out_of_memory(error):
            self._slots.capacity = max(1, len(failed) // 2)
        else:
            self._suspects = {sequence.request_id for sequence in failed}

    def _restart(self) -> None:
        """Free all memory, and let every prefilled and running sequence start over."""
        self._queue.prefilled.clear()
        self._slots.clear()
        for group in self._groups.values():
            started = group.with_status(Status.PREFILLED, Status.RUNNING)
            for sequence in started:
                group.sequences[sequence.index] = Sequence(group.request, sequence.index, group.id)
            if started:
                self._queue.waiting.append(group)

    def _caught(self, error: Exception) -> Exception:
        """Return an error without its traceback, whose frames would hold on to memory. Raise it if `recover` is off."""
        if not self._recovers:
            raise error
        return error.with_traceback(None)

    # The end of a request.

    def _fail(self, group: SequenceGroup, error: Exception) -> None:
        self._end(group, Status.FAILED)
        self._emit(group, Failed(error))

    def _end(self, group: SequenceGroup, status: Status) -> None:
        """End a request and those of its sequences that have not ended."""
        self._forget(group)
        self._queue.remove(group)
        group.events = None
        for sequence in group.with_status(Status.WAITING, Status.PREFILLED, Status.RUNNING):
            sequence.end(status)

    def _forget(self, group: SequenceGroup) -> None:
        del self._groups[group.id]
        self._suspects.discard(group.id)

    def _free_slots(self) -> None:
        """Free the slots of sequences that have ended."""
        self._slots.keep([sequence for sequence in self._slots.sequences if sequence.status is Status.RUNNING])

    def _emit(self, group: SequenceGroup, event: Event | Failed) -> None:
        self._events.append((group.id, event))

    def _sampler(self, request: Request) -> Sampler:
        """Return the sampler that all requests with the same logits processors and trace share."""
        key = (processors_key(request), request.pieces)
        sampler = self._samplers[key] = self._samplers.get(key) or Sampler(request)
        return sampler
