"""How fast a model ran."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.model.info import ModelInfo


@dataclass(frozen=True)
class BenchRow:
    """How fast a model ran with `rows` sequences at once.

    `step_bytes` is what a decode step reads at least (weights once, the keys and values so far), `bandwidth` what the
    device was seen to read in a second, `roofline_share` the step's time at that speed over the time it took.
    `cuda_graph` is "replayed" where decode steps were, else why not; None where none was captured.
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
