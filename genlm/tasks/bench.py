"""How fast a model runs here: prefill, decode step, memory, and how near that is to what the memory allows."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genlm.errors import UsageError
from genlm.model.memory import measure_bandwidth, peak_bytes, reset_peak
from genlm.records.bench import BenchRow

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.model.load import Model
    from genlm.model.network import Cache

WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Workload:
    """`new_tokens` decode steps after a prompt of `prompt_tokens`, for each number of rows in `batches`."""

    batches: tuple[int, ...] = (1, 16, 64)
    prompt_tokens: int = 32
    new_tokens: int = 64

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise UsageError(f"a batch must have at least 1 row, not {min(self.batches, default=0)}")
        if self.prompt_tokens < 1 or self.new_tokens < 1:
            raise UsageError("prompt_tokens and new_tokens must be at least 1")


def bench(model: Model, workload: Workload) -> Iterator[BenchRow]:
    """Measure each batch in turn; the median step counts.

    Raises:
        UsageError: more tokens than the model's context holds.
    """
    steps = WARM_UP_STEPS + workload.new_tokens
    context = model.network.context
    if context is not None and workload.prompt_tokens + steps > context:
        raise UsageError(
            f"{workload.prompt_tokens} prompt tokens and {steps} steps exceed the model's context of {context}",
            code="bench-too-long",
        )
    bandwidth = measure_bandwidth(model.network.device)
    for rows in workload.batches:
        yield _measure(model, workload, rows, bandwidth)


def _measure(model: Model, workload: Workload, rows: int, bandwidth: float) -> BenchRow:
    network = model.network
    prompt = random.Random(0).choices(range(network.vocab_size), k=workload.prompt_tokens)
    reset_peak(network.device)
    network.prefill([prompt] * rows, 1)
    started = time.perf_counter()
    logits, cache = network.prefill([prompt] * rows, WARM_UP_STEPS + workload.new_tokens)
    ids = logits.argmax(-1)
    ids.tolist()
    prefill_s = time.perf_counter() - started
    step_s = _median_step(cache, ids, workload.new_tokens)
    length = workload.prompt_tokens + workload.new_tokens // 2
    moved = network.step_bytes(rows, length)
    return BenchRow(
        model.info,
        rows,
        rows * workload.prompt_tokens / prefill_s,
        rows / step_s,
        step_s * 1e3,
        peak_bytes(network.device),
        moved,
        bandwidth,
        moved / bandwidth / step_s,
        network.graph_note,
    )


def _median_step(cache: Cache, ids: Tensor, steps: int) -> float:
    """Seconds of a greedy decode step with its choice; waiting for the ids waits for the device."""
    seconds = []
    for _ in range(WARM_UP_STEPS + steps):
        started = time.perf_counter()
        ids = cache.step(ids).argmax(-1)
        ids.tolist()
        seconds.append(time.perf_counter() - started)
    counted: Sequence[float] = sorted(seconds[WARM_UP_STEPS:])
    return counted[len(counted) // 2]
