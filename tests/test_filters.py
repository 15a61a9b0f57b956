"""Each filter against transformers' own, on logits with ties, impossible tokens and extremes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from genlm.decoding import filters
from genlm.decoding.filters import make_filters
from genlm.decoding.strategy import Strategy

OUT = -math.inf
VOCAB = 12
TIED = st.sampled_from([OUT, OUT, -2.0, -1.0, 0.0, 0.5, 0.5, 3.0])
UNTIED = st.floats(-30, 30)
ROW = st.lists(TIED, min_size=VOCAB, max_size=VOCAB) | st.lists(UNTIED, min_size=VOCAB, max_size=VOCAB)
LOGITS = st.lists(ROW.filter(lambda row: max(row) > OUT), min_size=1, max_size=3).map(torch.tensor)
UNIFORM = torch.zeros(1, VOCAB)
SINGLE = torch.full((1, VOCAB), OUT).index_fill(1, torch.tensor([4]), 1.0)
ONE_HOT = torch.full((1, VOCAB), -50.0).index_fill(1, torch.tensor([4]), 50.0)
PENALTY = st.floats(0.1, 5)
P = st.floats(0.01, 0.999)


@st.composite
def logits_and_history(draw: st.DrawFn) -> tuple[Tensor, list[list[int]]]:
    logits = draw(LOGITS)
    length = draw(st.integers(1, 15))
    row = st.lists(st.integers(0, VOCAB - 1), min_size=length, max_size=length)
    return logits, draw(st.lists(row, min_size=len(logits), max_size=len(logits)))


@given(logits_and_history(), PENALTY)
def test_repetition_penalty(case: tuple[Tensor, list[list[int]]], penalty: float) -> None:
    logits, history = case
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(history), logits)
    assert torch.equal(filters.penalise_repetition(logits, history, penalty), expected)


@given(logits_and_history(), st.integers(1, 6))
def test_no_repeat_ngram(case: tuple[Tensor, list[list[int]]], size: int) -> None:
    logits, history = case
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor(history), logits)
    assert torch.equal(filters.ban_repeated_ngrams(logits, history, size), expected)


def test_an_ngram_longer_than_the_history_bans_nothing() -> None:
    assert torch.equal(filters.ban_repeated_ngrams(UNIFORM, [[1, 1]], 10**9), UNIFORM)


@given(LOGITS, st.floats(0.05, 20))
@example(UNIFORM, 0.7)
@example(SINGLE, 1.5)
@example(ONE_HOT, 0.05)
def test_temperature(logits: Tensor, temperature: float) -> None:
    expected = TemperatureLogitsWarper(temperature)(None, logits).softmax(-1)
    torch.testing.assert_close(filters.scale_temperature(logits, temperature).softmax(-1), expected)


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-40, 1e-10, 1e10, 1e300])
def test_no_temperature_is_too_low_or_too_high(temperature: float) -> None:
    logits = torch.tensor([[1.0, OUT, 300.0, 299.0, -300.0]])
    probabilities = filters.scale_temperature(logits, temperature).softmax(-1)
    some, none = probabilities[0, [0, 2, 3, 4]], probabilities[0, 1]
    assert none == 0
    expected = [0.0, 1.0, 0.0, 0.0] if temperature < 1 else [0.25] * 4
    torch.testing.assert_close(some, torch.tensor(expected))


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300])
def test_no_penalty_makes_an_impossible_token_possible(penalty: float) -> None:
    penalised = filters.penalise_repetition(torch.tensor([[OUT, -1.0, 2.0]]), [[0, 0]], penalty)
    assert penalised.tolist() == [[OUT, -1.0, 2.0]]


@given(LOGITS, st.integers(1, VOCAB + 3))
@example(UNIFORM, 3)
@example(SINGLE, 3)
@example(ONE_HOT, 1)
def test_top_k(logits: Tensor, k: int) -> None:
    assert torch.equal(filters.keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


def on_the_border(row: Tensor, p: float) -> bool:
    """Whether rounding decides if the likeliest tokens of some number hold `p`."""
    held = row.double().softmax(-1).sort(descending=True).values.cumsum(-1)
    return bool(((held - p).abs() < 1e-5).any())


@given(LOGITS, P)
@example(UNIFORM, 0.3)
@example(UNIFORM, 0.55)
@example(SINGLE, 0.01)
@example(ONE_HOT, 0.999)
def test_top_p(logits: Tensor, p: float) -> None:
    kept = filters.keep_top_p(logits, p)
    stock = TopPLogitsWarper(p)(None, logits)
    for row, ours, theirs in zip(logits, kept, stock, strict=True):
        is_in = ours > OUT
        assert torch.equal(ours[is_in], row[is_in])
        assert is_in.any()
        probabilities = row.double().softmax(-1)[is_in]
        assert probabilities.sum() >= p - 1e-5
        assert probabilities.sum() - probabilities.min() < p + 1e-5
        # Which of equal tokens goes is arbitrary in transformers, and rounding decides on the border.
        if not on_the_border(row, p):
            assert torch.equal(ours.sort().values, theirs.sort().values)


def test_top_p_keeps_the_first_of_equal_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]])
    kept = filters.keep_top_p(logits, 0.7).isfinite()
    assert kept.tolist() == [[True, True, True, False, False, True]]


def test_a_row_keeps_the_same_tokens_beside_one_that_needs_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "SHORTLIST", 3)
    tied, flat = torch.tensor([[0.0, 3.0, 0.0, 3.0, 0.0, 3.0]]), torch.zeros(1, 6)
    alone = filters.keep_top_p(tied, 0.5)
    beside = filters.keep_top_p(torch.cat([flat, tied]), 0.5)
    assert torch.equal(beside[1:], alone)
    assert int(beside[0].isfinite().sum()) == 3
    assert torch.equal(filters.keep_top_p(flat, 0.9).isfinite(), torch.tensor([[True] * 6]))


@given(ROW.filter(lambda row: max(row) > OUT), P)
def test_the_shortlist_changes_nothing(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    whole = filters.keep_top_p(logits, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "SHORTLIST", 2)
        assert torch.equal(filters.keep_top_p(logits, p), whole)


def apply(strategy: Strategy, logits: Tensor, history: list[list[int]]) -> Tensor:
    for each in make_filters(strategy):
        logits = each(logits, history)
    return logits


@given(logits_and_history(), PENALTY, st.integers(0, 3), st.floats(0.1, 5), st.integers(0, VOCAB), P)
def test_all_filters_together_apply_in_transformers_order(
    case: tuple[Tensor, list[list[int]]], penalty: float, size: int, temperature: float, k: int, p: float
) -> None:
    logits, history = case
    fields: dict[str, Any] = {"repetition_penalty": penalty, "no_repeat_ngram_size": size}
    fields |= {"temperature": temperature, "top_k": k, "top_p": p}
    stock: list[Any] = [RepetitionPenaltyLogitsProcessor(penalty)]
    stock += [NoRepeatNGramLogitsProcessor(size)] if size else []
    stock += [TemperatureLogitsWarper(temperature)]
    stock += [TopKLogitsWarper(k)] if k else []
    before = LogitsProcessorList(stock)(torch.tensor(history), logits)
    ours = apply(Strategy.of("top-p", fields), logits, history).softmax(-1)
    theirs = TopPLogitsWarper(p)(None, before).softmax(-1)
    for before_p, mine, other in zip(before, ours, theirs, strict=True):
        if before_p.amax() > OUT and not on_the_border(before_p, p):
            torch.testing.assert_close(mine.sort().values, other.sort().values)


@pytest.mark.parametrize("spec", ["greedy", "beam", "sample", "top-p:top_p=1", "sample:temperature=1"])
def test_neutral_fields_filter_nothing(spec: str) -> None:
    assert make_filters(Strategy.parse(spec)) == []


def test_a_filter_leaves_what_it_is_given_as_it_was() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, OUT]])
    spec = "top-p:top_p=0.5,top_k=2,temperature=0.5,repetition_penalty=2,no_repeat_ngram_size=1"
    apply(Strategy.parse(spec), logits, [[1]])
    assert logits.tolist() == [[3.0, 2.0, 1.0, OUT]]


@pytest.mark.parametrize("p", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.01, 0.5, 2.0])
def test_a_wide_nucleus_is_that_of_a_full_sort(spread: float, p: float) -> None:
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1)) * spread
    # One row whose nucleus is small, beside those whose is not.
    logits[1, 7] = 30.0
    values, ids = logits.double().softmax(-1).sort(dim=-1, descending=True)
    expected = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, ids, values.cumsum(-1) - values < p)
    # A sum of thousands of float32 numbers may round the border by a token.
    assert (filters.keep_top_p(logits, p).isfinite() != expected).sum() <= 1


def test_a_nucleus_that_ends_among_more_equal_tokens_than_a_band_holds() -> None:
    logits = torch.zeros(2, 5_000)
    logits[1, :100] = 1.0
    kept = filters.keep_top_p(logits, 0.5).isfinite()
    assert kept[0].nonzero()[:, 0].tolist() == list(range(int(kept[0].sum())))
    assert abs(int(kept[0].sum()) - 2500) <= 1
    assert kept[1, :100].all()
