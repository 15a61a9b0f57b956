"""Mirostat: keep the surprise of a text at a target level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from genlm.decoding.declaration import Field, Kind, Number, Processor
from genlm.decoding.kinds.shared import DIVIDE_BY_TEMPERATURE, PENALTIES

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.decoding.processors import SampledSequence

MIROSTAT = Processor(
    f"{__name__}:Mirostat",
    300,
    (
        Field("mirostat_tau", 5.0, Number(float, 0, 100, low_open=True), "Target surprise, in bits per token"),
        Field("mirostat_eta", 0.1, Number(float, 0, 1, low_open=True), "How fast mu follows the error"),
    ),
    has_state=True,
)
KINDS = [
    Kind(
        name="mirostat",
        summary="a draw that keeps the surprise of the text near mirostat_tau bits per token (version 2)",
        formula="keep v if -log2 p(v) <= mu, and always the most likely token; mu starts at\n"
        "2 * mirostat_tau; after drawing v, mu falls by\nmirostat_eta * (-log2 p(v) - mirostat_tau)",
        paper="Basu et al. 2021, arXiv:2007.14966",
        parameters=(MIROSTAT, DIVIDE_BY_TEMPERATURE, *PENALTIES),
        samples=True,
        main="mirostat_tau",
    ),
]


@dataclass(frozen=True)
class Mirostat:
    """Rule out tokens with more than mu bits of surprise, except the most likely one.

    mu starts at 2 tau. After each token it falls by eta times the error, which is the token's surprise before the cut
    minus tau.
    """

    mirostat_tau: float
    mirostat_eta: float
    # Entries disappear with their sequences.
    mu: WeakKeyDictionary[SampledSequence, float] = field(default_factory=WeakKeyDictionary, init=False)

    def process(self, logits: Tensor, sequences: Sequence[SampledSequence]) -> Tensor:
        """See StatefulProcessor."""
        limits = logits.new_tensor([self._mu(sequence) for sequence in sequences])[:, None]
        surprise = -logits.log_softmax(-1) / math.log(2)
        outside = (surprise > limits) & (logits < logits.amax(-1, keepdim=True))
        return logits.masked_fill(outside, -math.inf)

    def observe(self, logits: Tensor, chosen: Tensor, sequences: Sequence[SampledSequence]) -> None:
        """See StatefulProcessor."""
        logprobs = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        for sequence, logprob in zip(sequences, logprobs.tolist(), strict=True):
            error = -logprob / math.log(2) - self.mirostat_tau
            self.mu[sequence] = self._mu(sequence) - self.mirostat_eta * error

    def _mu(self, sequence: SampledSequence) -> float:
        return self.mu.get(sequence, 2 * self.mirostat_tau)
