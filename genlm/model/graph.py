"""Decode steps as CUDA graphs: one launch replaces those of all kernels, which would take most of a step's time.

A graph repeats the same work on the same memory. So a captured step has fixed shapes, and its ids and lengths are
copied into tensors that stay. The keys and values are the cache's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from genlm.errors import first_line

# Runs on a side stream before the capture: libraries initialize in the first, which cannot be captured.
WARM_UPS = 3
# Steps with the same rows before a capture. A capture costs several steps: the warm-ups, the capture, and one step
# done twice. Waiting for about as many bounds the loss if the rows change soon after.
PATIENCE = 8
# The note when graphs are in use.
REPLAYED = "replayed"


# Records what a function does on the device. Returns a function that repeats it on the same tensors and returns the
# same tensor, overwritten. Raises whatever the device or its libraries raise.
Capture: TypeAlias = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
# (ids, lengths, keys, values) -> logits, (rows, vocab): a step that adds each row's token at the row's length, with
# shapes that do not depend on the lengths. `ids`, `lengths`: (rows,).
Decode: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# (ids, lengths) -> logits: a captured step.
Graph: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Capturable(Protocol):
    """A cache whose steps may be captured."""

    def never_capture(self) -> None:
        """Always take the ordinary step, whose rounding does not depend on how much memory the cache has."""
        ...


class CudaCapture:
    """Captures with torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        # One stream for all captures: libraries keep a workspace for every stream ever used.
        self._stream = torch.cuda.Stream()

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See Capture."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                run()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": let other threads use the device during capture.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


@dataclass
class Graphs:
    """How to capture a model's steps; `capture` is None if that is off or has failed.

    `note` is "replayed" once graphs are in use, or says why they were given up; it is None before the first is ready.
    """

    capture: Capture | None = None
    note: str | None = None

    def give_up(self, reason: str) -> None:
        """Capture nothing from now on."""
        self.capture, self.note = None, f"given up: {reason}"


class Steps:
    """The decode steps of a cache: ordinary ones until enough had the same rows for a graph to pay.

    `keys`, `values`: the cache's memory, (layers, rows, heads, capacity, head width), which graphs use without a copy.
    """

    def __init__(self, graphs: Graphs, decode: Decode, keys: Tensor, values: Tensor) -> None:
        self._graphs = graphs
        self._decode = decode
        self._keys, self._values = keys, values
        self._graph: Graph | None = None
        self._is_trusted = False
        self._rows = self._same = 0

    def run(self, ids: Tensor, lengths: Tensor, ordinary: Callable[[], Tensor]) -> Tensor:
        """Return the logits that `ordinary` computes, (rows, vocab), from a graph if possible. `ids`: (rows,)."""
        capture = self._graphs.capture
        if capture is None:
            self._graph = None
            return ordinary()
        if len(ids) != self._rows:
            self._graph, self._is_trusted = None, False
            self._rows, self._same = len(ids), 0
        self._same += 1
        if self._graph is not None and self._is_trusted:
            return self._graph(ids, lengths)
        logits = ordinary()
        try:
            if self._graph is not None:
                self._check(self._graph, ids, lengths, logits)
            elif self._same >= PATIENCE:
                self._graph = _record(capture, self._decode, ids, lengths, *self._memory())
        # Drivers and libraries may raise anything, and decoding works without graphs.
        except Exception as error:
            self._graph = None
            self._graphs.give_up(first_line(error))
        return logits

    def _check(self, graph: Graph, ids: Tensor, lengths: Tensor, logits: Tensor) -> None:
        """Trust the graph if its logits are the same; otherwise undo what it wrote and raise RuntimeError.

        This is the step after the recorded one, so everything that can change has changed.
        """
        memory = self._memory()
        saved = [tensor.clone() for tensor in memory]
        try:
            self._is_trusted = is_rounding(graph(ids, lengths), logits, self._keys.dtype)
        finally:
            if not self._is_trusted:
                for tensor, copy in zip(memory, saved, strict=True):
                    tensor.copy_(copy)
        if not self._is_trusted:
            raise RuntimeError("its logits differ from those of the ordinary step")
        self._graphs.note = REPLAYED

    def _memory(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the rows in use."""
        return self._keys[:, : self._rows], self._values[:, : self._rows]


def _record(capture: Capture, decode: Decode, ids: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Graph:
    own_ids, own_lengths = ids.clone(), lengths.clone()
    replay = capture(lambda: decode(own_ids, own_lengths, keys, values))

    def graph(ids: Tensor, lengths: Tensor) -> Tensor:
        own_ids.copy_(ids)
        own_lengths.copy_(lengths)
        # Cloned, because the next replay overwrites it.
        return replay().clone()

    return graph


def is_rounding(logits: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Return whether logits, (rows, vocab), differ by no more than rounding in `dtype` allows, in every row.

    Rounding moves a logit by up to half a unit in its last place. Sums in another order, from layer to layer, cost at
    most half of the digits, relative to how far a row's logits are spread.
    """
    unit = torch.finfo(dtype).eps
    error = (logits - expected).square().mean(-1).sqrt()
    allowed = unit * expected.abs().amax(-1) + unit**0.5 * expected.std(-1, correction=0)
    return bool((error <= allowed).all())
