"""Measure how fast a model runs on this machine: prefill, decode steps, memory, and the share of the roofline."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genlm.errors import ModelError, UsageError
from genlm.model.memory import free_bytes, measure_bandwidth, peak_bytes, reset_peak
from genlm.records.bench import BenchRow

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.model.load import Model
    from genlm.model.network import Cache, Network

WARM_UP_STEPS = 3
# Of rows, prompt tokens and steps.
MOST = 2**31 - 1


@dataclass(frozen=True)
class Workload:
    """The work to measure: for each number of rows in `batches`, a prompt in every row, then decode steps."""

    batches: tuple[int, ...] = (1, 16, 64)
    prompt_tokens: int = 32
    new_tokens: int = 64

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise UsageError(f"a batch must have at least 1 row, not {min(self.batches, default=0)}")
        if self.prompt_tokens < 1 or self.new_tokens < 1:
            raise UsageError("prompt_tokens and new_tokens must be at least 1")
        if max(*self.batches, self.prompt_tokens, self.new_tokens) > MOST:
            raise UsageError(f"rows, prompt_tokens and new_tokens must be at most {MOST:,}")


def bench(model: Model, workload: Workload) -> Iterator[BenchRow]:
    """Measure each batch and yield its speeds; that of a decode step is the median.

    Raises:
        UsageError: prompt and steps exceed the model's context.
        ModelError: a batch does not fit in the free memory; nothing is measured.
    """
    network = model.network
    steps = WARM_UP_STEPS + workload.new_tokens
    length = workload.prompt_tokens + steps
    if network.context is not None and length > network.context:
        raise UsageError(
            f"{workload.prompt_tokens} prompt tokens and {steps} steps exceed the model's context of {network.context}",
            code="bench-too-long",
        )
    _check_memory(network, max(workload.batches), length)
    bandwidth = measure_bandwidth(network.device)
    for rows in workload.batches:
        yield _measure(model, workload, rows, bandwidth)


def _check_memory(network: Network, rows: int, length: int) -> None:
    """Raise ModelError if `rows` rows of `length` tokens do not fit in the free memory."""
    row, free = network.row_bytes(length), free_bytes(network.device)
    if rows * row > free:
        fitting = free // row
        raise ModelError(
            f"a batch of {rows:,} rows of {length:,} tokens needs about {rows * row / 1e9:,.1f} GB of memory, "
            f"and {free / 1e9:,.1f} GB are free",
            hint=f"at most {fitting:,} rows fit" if fitting else "a shorter prompt or fewer steps need less",
        )


def _measure(model: Model, workload: Workload, rows: int, bandwidth: float) -> BenchRow:
    network = model.network
    prompt = random.Random(0).choices(range(network.vocab_size), k=workload.prompt_tokens)
    reset_peak(network.device)
    # The first pass warms up.
    network.prefill([prompt] * rows, 1)
    started = time.perf_counter()
    logits, cache = network.prefill([prompt] * rows, WARM_UP_STEPS + workload.new_tokens)
    ids = logits.argmax(-1)
    # Reading the ids waits for the device.
    ids.tolist()
    prefill_s = time.perf_counter() - started
    step_s = _median_step(cache, ids, workload.new_tokens)
    step_bytes = network.step_bytes(rows, workload.prompt_tokens + workload.new_tokens // 2)
    return BenchRow(
        model=model.info,
        rows=rows,
        prefill_tokens_per_s=rows * workload.prompt_tokens / prefill_s,
        decode_tokens_per_s=rows / step_s,
        ms_per_step=step_s * 1e3,
        peak_bytes=peak_bytes(network.device),
        step_bytes=step_bytes,
        bandwidth=bandwidth,
        roofline_share=step_bytes / bandwidth / step_s,
        cuda_graph=network.graph_note,
    )


def _median_step(cache: Cache, ids: Tensor, steps: int) -> float:
    """Return the median duration of a greedy decode step, in seconds, including the choice of the next tokens."""
    seconds = []
    for _ in range(WARM_UP_STEPS + steps):
        started = time.perf_counter()
        ids = cache.step(ids).argmax(-1)
        ids.tolist()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[WARM_UP_STEPS:])[steps // 2]
