"""Which loop decodes a request: the scheduler, a search, or transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar, cast

from genlm.decoding.completion import Event, Failed
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.model.network import HiddenStatesCache, Network, SharedCache

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.decoding.scheduler import Scheduler
    from genlm.model.adapter import TransformersModel

K = TypeVar("K")


def decode(network: Network, request: Request) -> Iterator[Event]:
    """Yield the events of one request: `Prefilled`, pieces of text, and each completion when it ends, in any order.

    Raises:
        ModelError: logits that are not numbers, no token left to choose, or not enough memory for a search.
    """
    loop = request.strategy.declaration.loop
    events: Iterator[Event]
    if request.engine == "transformers":
        from genlm.decoding.stock import stock_generate

        events = stock_generate(cast("TransformersModel", network), request)
    elif loop:
        events = resolve_name(loop)(network, request)
    else:
        events = _sample(network, request)
    if request.pieces is None:
        return events
    from genlm.decoding.trace import add_traces

    return add_traces(network, request, request.pieces, events)


def make_scheduler(network: Network, max_sequences: int | None = None) -> Scheduler:
    """Return a scheduler for requests of every kind; those that cannot share steps run separately."""
    from genlm.decoding.scheduler import Scheduler

    def run_separately(request: Request) -> Iterator[Event] | None:
        # A search needs its own cache.
        is_separate = request.alone or request.engine != "genlm" or request.strategy.declaration.loop
        return decode(network, request) if is_separate else None

    return Scheduler(network, run_separately, max_sequences=max_sequences)


def decode_many(
    scheduler: Scheduler,
    requests: Iterable[tuple[K, Request | Failed]],
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[K, Event | Failed]]:
    """Yield the events of many requests, in any order, each with the key of its request. See Scheduler for the events.

    A request that is `Failed` from the start keeps that as its only event. Requests are taken lazily, a window at a
    time; an iterator that has ended is asked again as long as any request runs. Once `is_stopping` returns true, no
    more sequences start, and running ones finish.
    """
    remaining = iter(requests)
    keys: dict[int, K] = {}
    is_draining = False
    while True:
        is_refilled = False
        if is_stopping():
            if not is_draining:
                scheduler.drain()
            is_draining = True
        elif not scheduler.num_waiting:
            for key, request in islice(remaining, scheduler.window):
                is_refilled = True
                if isinstance(request, Failed):
                    yield key, request
                else:
                    keys[scheduler.submit(request)] = key
        if not (scheduler.has_work or is_refilled):
            return
        events = scheduler.step()
        for id, event in events:
            yield keys[id], event
        for id in {id for id, _ in events}:
            if id not in scheduler:
                del keys[id]


def _sample(network: Network, request: Request) -> Iterator[Event]:
    """Decode one request that does not search, with its own scheduler."""
    from genlm.decoding.lookup import can_look_up
    from genlm.decoding.scheduler import Scheduler

    if request.alone:
        request = replace(request, least_rows=1)
    max_sequences = 1 if request.alone or can_look_up(request) else None
    scheduler = Scheduler(network, max_sequences=max_sequences, recover=False)
    scheduler.submit(request)
    while scheduler.has_work:
        for _, event in scheduler.step():
            yield cast(Event, event)


def share_prefill(network: Network, room: int) -> Network:
    """Return the network with a memory for the last prompt that was prefilled alone, so several strategies can use it.

    The prompt is prefilled with room for `room` more tokens, which serves any loop that needs no more. A prefill with
    hidden states also serves loops that need none, but not the reverse: sorted by `prefill_order`, all strategies share
    one prefill.
    """
    return cast(Network, _SharedPrefill(network, room))


def prefill_order(strategy: Strategy) -> int:
    """Sort key that puts strategies that need hidden states first."""
    return 0 if strategy.declaration.reads_hidden_states else 1


@dataclass(frozen=True)
class _Prefill:
    """A prefilled prompt. `states`: (tokens, layers + 1, width), if they were asked for."""

    prompt: tuple[int, ...]
    room: int
    logits: Tensor
    cache: Any
    states: Tensor | None

    def copy_cache(self) -> Any:
        """Return a copy of the cache: some loops write to the one that they get."""
        import torch

        return self.cache.select(torch.zeros(1, dtype=torch.long, device=self.logits.device))


class _SharedPrefill:
    """See share_prefill. Everything else is the network's."""

    def __init__(self, network: Network, room: int) -> None:
        self._network = network
        self._room = room
        self._last: _Prefill | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, SharedCache]:
        """See Network."""
        if len(prompts) != 1:
            return self._network.prefill(prompts, room)
        last = self._recall(prompts[0], room)
        if last is None:
            room = max(room, self._room)
            logits, cache = self._network.prefill(prompts, room)
            last = self._last = _Prefill(tuple(prompts[0]), room, logits, cache, None)
        return last.logits, last.copy_cache()

    def prefill_with_states(
        self, prompt: Sequence[int], room: int, layers: Sequence[int]
    ) -> tuple[Tensor, HiddenStatesCache, Tensor]:
        """See Network."""
        last = self._recall(prompt, room)
        if last is None or last.states is None:
            room = max(room, self._room)
            logits, cache, states = self._network.prefill_with_states(prompt, room, range(self._network.layers + 1))
            last = self._last = _Prefill(tuple(prompt), room, logits, cache, states)
        assert last.states is not None
        return last.logits, last.copy_cache(), last.states[:, list(layers)]

    def _recall(self, prompt: Sequence[int], room: int) -> _Prefill | None:
        last = self._last
        return last if last is not None and last.prompt == tuple(prompt) and last.room >= room else None
