"""A decode step as a CUDA graph: its kernels are launched at once, where one by one the launching takes longest.

A graph does the same on the same memory again. So what is captured has shapes that stay, and everything that changes
from step to step, ids and lengths, lies in tensors that stay too. The keys and values are the cache's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from genlm.errors import first_line

# Runs on a stream of its own before the capture: libraries set themselves up in the first, which cannot be captured.
WARM_UPS = 3
# A capture takes the time of some steps: the warm-ups, the capture itself, and one step that is made twice. Where it
# waits for about as many, it can hardly double the time of rows that change soon after.
PATIENCE = 8
# What there is to say of graphs that are in use.
REPLAYED = "replayed"


class Capture(Protocol):
    """Records what a function does on the device."""

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What does the same again on the same tensors, and returns the same tensor, written anew.

        Raises whatever the device or its libraries do not allow.
        """
        ...


class Decode(Protocol):
    """A decode step of shapes that do not depend on lengths."""

    def __call__(self, ids: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Keep each row's new token at its length; `ids`, `lengths`: (rows,). Returns logits: (rows, vocab)."""
        ...


@runtime_checkable
class Capturable(Protocol):
    """A cache whose steps may come to be captured."""

    def never_capture(self) -> None:
        """Take the ordinary step always: its rounding does not depend on how much memory the cache has."""
        ...


class CudaCapture:
    """Captures by torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        # One for all: the workspaces of the libraries are kept for each stream that was ever used.
        self._stream = torch.cuda.Stream()

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See Capture."""
        self._warm_up(run)
        graph = torch.cuda.CUDAGraph()
        # Other threads may do on the device what they like.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            made = run()

        def replay() -> Tensor:
            graph.replay()
            return made

        return replay

    def _warm_up(self, run: Callable[[], Tensor]) -> None:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                run()
        current.wait_stream(self._stream)


class Graphs:
    """What captures the steps of a model, as long as it can be trusted.

    `note` says what became of that: "replayed", or why it was given up; None before the first graph is ready.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        self.capture = capture
        self.note: str | None = None

    def give_up(self, reason: str) -> None:
        """Capture nothing from now on."""
        self.capture, self.note = None, f"given up: {reason}"


class Steps:
    """The decode steps of a cache: ordinary ones, until so many had the same rows that a graph pays.

    `keys`, `values`: the cache's memory, (layers, rows, heads, capacity, head width), of which a graph takes no copy.
    """

    def __init__(self, graphs: Graphs, decode: Decode, keys: Tensor, values: Tensor) -> None:
        self._graphs = graphs
        self._decode = decode
        self._keys, self._values = keys, values
        self._graph: _Graph | None = None
        self._is_trusted = False
        self._rows = self._alike = 0

    def run(self, ids: Tensor, lengths: Tensor, ordinary: Callable[[], Tensor]) -> Tensor:
        """The logits of one more token a row, (rows, vocab), as `ordinary` makes them. `ids`, `lengths`: (rows,)."""
        capture = self._graphs.capture
        if capture is None:
            self._graph = None
            return ordinary()
        self._count(len(ids))
        if self._graph is not None and self._is_trusted:
            return self._graph(ids, lengths)
        logits = ordinary()
        try:
            self._prepare(capture, ids, lengths, logits)
        # Drivers and libraries fail in ways of their own, and no text needs a graph.
        except Exception as error:
            self._give_up(first_line(error))
        return logits

    def _count(self, rows: int) -> None:
        """Take note of a step; the graph of other rows is let go before there is another."""
        if rows != self._rows:
            self._graph, self._is_trusted = None, False
            self._rows, self._alike = rows, 0
        self._alike += 1

    def _prepare(self, capture: Capture, ids: Tensor, lengths: Tensor, logits: Tensor) -> None:
        """Capture a step when it is time, and compare the next: what a graph takes for fixed has changed by then."""
        if self._graph is not None:
            self._compare(self._graph, ids, lengths, logits)
        elif self._alike >= PATIENCE:
            self._graph = _Graph(capture, self._decode, ids, lengths, *self._held())

    def _compare(self, graph: _Graph, ids: Tensor, lengths: Tensor, logits: Tensor) -> None:
        """Trust the graph if it makes the same logits; else undo what it did, and give graphs up."""
        held = self._held()
        saved = [memory.clone() for memory in held]
        try:
            self._is_trusted = is_rounding(graph(ids, lengths), logits, self._keys.dtype)
        finally:
            if not self._is_trusted:
                for memory, copy in zip(held, saved, strict=True):
                    memory.copy_(copy)
        if self._is_trusted:
            self._graphs.note = REPLAYED
        else:
            self._give_up("its logits were not those of the ordinary step")

    def _give_up(self, reason: str) -> None:
        self._graph = None
        self._graphs.give_up(reason)

    def _held(self) -> tuple[Tensor, Tensor]:
        """The keys and values of the rows that there are."""
        return self._keys[:, : self._rows], self._values[:, : self._rows]


class _Graph:
    """A step that is captured, and the tensors that it reads and writes."""

    def __init__(
        self, capture: Capture, decode: Decode, ids: Tensor, lengths: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        self._inputs = inputs = (ids.clone(), lengths.clone(), keys, values)
        self._replay = capture(lambda: decode(*inputs))

    def __call__(self, ids: Tensor, lengths: Tensor) -> Tensor:
        own_ids, own_lengths, *_ = self._inputs
        own_ids.copy_(ids)
        own_lengths.copy_(lengths)
        # The next replay writes over it.
        return self._replay().clone()


def is_rounding(made: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits, (rows, vocab), differ by no more than rounding in `dtype` may leave, in every row.

    Rounding a logit moves it by up to half a unit in its last place. Sums in another order, from layer to layer, cost
    at most half of the digits, which counts against how far the logits of a row lie apart.
    """
    unit = torch.finfo(dtype).eps
    error = (made - expected).square().mean(-1).sqrt()
    allowed = unit * expected.abs().amax(-1) + unit**0.5 * expected.std(-1, correction=0)
    return bool((error <= allowed).all())
