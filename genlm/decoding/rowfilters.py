"""The last cuts before a draw, which differ from row to row beyond its tokens: by its past surprise, or by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from genlm.decoding.strategy import Strategy


class Sequenced(Protocol):
    """What such a filter knows of a row: its own random stream. Two rows are never equal."""

    @property
    def random(self) -> Random:
        """The stream."""


class RowFilter(Protocol):
    """A filter whose cut of a row depends on the row's own state. The state is a function of the row alone."""

    def narrow(self, logits: Tensor, rows: Sequence[Sequenced]) -> Tensor:
        """New logits, (rows, vocab), with -inf for what is out."""

    def note(self, logits: Tensor, chosen: Tensor, rows: Sequence[Sequenced]) -> None:
        """Learn which tokens, (rows,), were drawn where `logits` were to be narrowed."""


def make_row_filters(strategy: Strategy) -> list[RowFilter]:
    """The row filters of a strategy, in the order in which they apply, after all others."""
    fields = cast(dict[str, Any], strategy.fields)
    filters: list[RowFilter] = []
    if fields.get("xtc_probability", 0.0) > 0.0:
        filters.append(ExcludeTopChoices(fields["xtc_probability"], fields["xtc_threshold"]))
    if strategy.kind == "mirostat":
        filters.append(Mirostat(fields["mirostat_tau"], fields["mirostat_eta"]))
    return filters


class ExcludeTopChoices:
    """XTC, as p-e-w defines it: by chance, rule out all tokens of `threshold` or more but the least likely of them.

    Takes one more number of a row's stream for every token, before the one that draws the token.
    """

    def __init__(self, probability: float, threshold: float) -> None:
        self.probability = probability
        self.threshold = threshold

    def narrow(self, logits: Tensor, rows: Sequence[Sequenced]) -> Tensor:
        """See RowFilter. Of equally likely tokens the first stays."""
        chances = [row.random.random() < self.probability for row in rows]
        probabilities = logits.softmax(-1)
        top = probabilities >= self.threshold
        least = probabilities.masked_fill(~top, torch.inf).argmin(-1, keepdim=True)
        excluded = top.scatter(-1, least, False) & torch.tensor(chances, device=logits.device)[:, None]
        return logits.masked_fill(excluded, -torch.inf)

    def note(self, logits: Tensor, chosen: Tensor, rows: Sequence[Sequenced]) -> None:
        """See RowFilter: chance remembers nothing."""


class Mirostat:
    """Mirostat, version 2 (Basu et al. 2021, arXiv:2007.14966): keeps the surprise of a text near `tau` bits a token.

    Tokens with more than mu bits of surprise are out, but not the likeliest. mu starts at 2 tau; after each token it
    falls by `eta` times the error, which is the token's surprise before the cut less tau.
    """

    def __init__(self, tau: float, eta: float) -> None:
        self.tau = tau
        self.eta = eta
        # Of a row that is gone nothing is kept.
        self.mu: WeakKeyDictionary[Sequenced, float] = WeakKeyDictionary()

    def narrow(self, logits: Tensor, rows: Sequence[Sequenced]) -> Tensor:
        """See RowFilter."""
        limits = torch.tensor([self._mu(row) for row in rows], device=logits.device)[:, None]
        surprise = -logits.log_softmax(-1) / math.log(2)
        outside = (surprise > limits) & (logits < logits.amax(-1, keepdim=True))
        return logits.masked_fill(outside, -torch.inf)

    def note(self, logits: Tensor, chosen: Tensor, rows: Sequence[Sequenced]) -> None:
        """See RowFilter."""
        logprobs = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        for row, logprob in zip(rows, logprobs.tolist(), strict=True):
            self.mu[row] = self._mu(row) - self.eta * (-logprob / math.log(2) - self.tau)

    def _mu(self, row: Sequenced) -> float:
        return self.mu.get(row, 2 * self.tau)
