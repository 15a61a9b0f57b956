"""The result of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.model.info import ModelInfo


@dataclass(frozen=True)
class BenchRow:
    """How fast a model ran with `rows` sequences at once.

    `step_bytes` is the least that a decode step reads: the weights once, and the keys and values so far. `bandwidth` is
    the measured reading speed of the device, in bytes a second. `roofline_share` is the time that a step would take at
    that speed, divided by the time it took. `cuda_graph` is "replayed" if decode steps ran as a CUDA graph, the reason
    if capturing them failed, and None if no step was captured.
    """

    model: ModelInfo
    rows: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ms_per_step: float
    peak_bytes: int | None
    step_bytes: int
    bandwidth: float
    roofline_share: float
    cuda_graph: str | None
