"""Logits with ties, impossible tokens and extremes; histories; and sequences for processors with state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from hypothesis import strategies as st
from torch import Tensor

OUT = -math.inf
VOCAB = 12
TIED = st.sampled_from([OUT, OUT, -2.0, -1.0, 0.0, 0.5, 0.5, 3.0])
UNTIED = st.floats(-30, 30)
ROW = st.lists(TIED, min_size=VOCAB, max_size=VOCAB) | st.lists(UNTIED, min_size=VOCAB, max_size=VOCAB)
LOGITS = st.lists(ROW.filter(lambda row: max(row) > OUT), min_size=1, max_size=3).map(torch.tensor)
UNIFORM = torch.zeros(1, VOCAB)
SINGLE = torch.full((1, VOCAB), OUT).index_fill(1, torch.tensor([4]), 1.0)
ONE_HOT = torch.full((1, VOCAB), -50.0).index_fill(1, torch.tensor([4]), 50.0)
# Powers of a half, so that surprise in bits is a whole number.
HALVES = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log()
PENALTY = st.floats(0.1, 5)
P = st.floats(0.01, 0.999)


@st.composite
def logits_and_history(draw: st.DrawFn) -> tuple[Tensor, list[list[int]]]:
    logits = draw(LOGITS)
    length = draw(st.integers(1, 15))
    row = st.lists(st.integers(0, VOCAB - 1), min_size=length, max_size=length)
    return logits, draw(st.lists(row, min_size=len(logits), max_size=len(logits)))


def on_the_border(row: Tensor, p: float) -> bool:
    """Return whether rounding decides how many of the most likely tokens hold `p`."""
    held = row.double().softmax(-1).sort(descending=True).values.cumsum(-1)
    return bool(((held - p).abs() < 1e-5).any())


def kept_tokens(logits: Tensor) -> list[list[int]]:
    """Return the tokens of each row that are not ruled out."""
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


class Numbers(Random):
    """A stream of given numbers."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self.left = list(numbers)

    def random(self) -> float:
        return self.left.pop(0)


@dataclass(eq=False)
class Sampled:
    """A sequence as a processor with state sees it."""

    random: Random
