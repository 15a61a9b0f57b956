"""Each cut: transformers' own, or worked out by hand, in every kind of distribution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.logits import LOGITS, ONE_HOT, OUT, ROW, SINGLE, UNIFORM, VOCAB, P, on_the_border
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from genlm.decoding import cuts


@given(LOGITS, st.floats(0.05, 20))
@example(UNIFORM, 0.7)
@example(SINGLE, 1.5)
@example(ONE_HOT, 0.05)
def test_temperature(logits: Tensor, temperature: float) -> None:
    expected = TemperatureLogitsWarper(temperature)(None, logits).softmax(-1)
    torch.testing.assert_close(cuts.scale_temperature(logits, temperature).softmax(-1), expected)


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-40, 1e-10, 1e10, 1e300])
def test_no_temperature_is_too_low_or_too_high(temperature: float) -> None:
    logits = torch.tensor([[1.0, OUT, 300.0, 299.0, -300.0]])
    probabilities = cuts.scale_temperature(logits, temperature).softmax(-1)
    some, none = probabilities[0, [0, 2, 3, 4]], probabilities[0, 1]
    assert none == 0
    expected = [0.0, 1.0, 0.0, 0.0] if temperature < 1 else [0.25] * 4
    torch.testing.assert_close(some, torch.tensor(expected))


@given(LOGITS, st.integers(1, VOCAB + 3))
@example(UNIFORM, 3)
@example(SINGLE, 3)
@example(ONE_HOT, 1)
def test_top_k(logits: Tensor, k: int) -> None:
    assert torch.equal(cuts.keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


@given(LOGITS, P)
@example(UNIFORM, 0.3)
@example(UNIFORM, 0.55)
@example(SINGLE, 0.01)
@example(ONE_HOT, 0.999)
def test_top_p(logits: Tensor, p: float) -> None:
    kept = cuts.keep_top_p(logits, p)
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
            torch.testing.assert_close(ours.softmax(-1).sort().values, theirs.softmax(-1).sort().values)


def test_top_p_keeps_the_first_of_equal_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]])
    kept = cuts.keep_top_p(logits, 0.7).isfinite()
    assert kept.tolist() == [[True, True, True, False, False, True]]


def test_a_row_keeps_the_same_tokens_beside_one_that_needs_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "SHORTLIST", 3)
    tied, flat = torch.tensor([[0.0, 3.0, 0.0, 3.0, 0.0, 3.0]]), torch.zeros(1, 6)
    alone = cuts.keep_top_p(tied, 0.5)
    beside = cuts.keep_top_p(torch.cat([flat, tied]), 0.5)
    assert torch.equal(beside[1:], alone)
    assert int(beside[0].isfinite().sum()) == 3
    assert torch.equal(cuts.keep_top_p(flat, 0.9).isfinite(), torch.tensor([[True] * 6]))


@given(ROW.filter(lambda row: max(row) > OUT), P)
def test_the_shortlist_changes_nothing(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    whole = cuts.keep_top_p(logits, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "SHORTLIST", 2)
        assert torch.equal(cuts.keep_top_p(logits, p), whole)


CUT = st.floats(0.001, 0.999)
STOCK_CUTS: list[tuple[Any, Any, st.SearchStrategy[float]]] = [
    (cuts.keep_top_h, TopHLogitsWarper, CUT),
    (cuts.keep_min_p, MinPLogitsWarper, CUT),
    (cuts.keep_typical, TypicalLogitsWarper, CUT),
    (cuts.keep_epsilon, EpsilonLogitsWarper, CUT),
    (cuts.keep_eta, EtaLogitsWarper, CUT),
]


@pytest.mark.parametrize(("ours", "stock", "numbers"), STOCK_CUTS, ids=lambda part: getattr(part, "__name__", ""))
@given(data=st.data())
def test_a_cut_is_transformers_own(
    ours: Any, stock: Any, numbers: st.SearchStrategy[float], data: st.DataObject
) -> None:
    logits, value = data.draw(LOGITS), data.draw(numbers)
    assert torch.equal(ours(logits, value), stock(value)(None, logits))


@pytest.mark.parametrize(("ours", "stock", "_"), STOCK_CUTS, ids=lambda part: getattr(part, "__name__", ""))
@pytest.mark.parametrize("value", [0.001, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("logits", [UNIFORM, SINGLE, ONE_HOT], ids=["uniform", "single", "one-hot"])
def test_a_cut_of_an_extreme_distribution_is_transformers_own(
    ours: Any, stock: Any, _: Any, value: float, logits: Tensor
) -> None:
    kept = ours(logits, value)
    assert torch.equal(kept, stock(value)(None, logits))
    assert (kept > OUT).any()


CUTS: list[Any] = [
    (cuts.keep_top_k, 3),
    (cuts.keep_top_p, 0.6),
    (cuts.keep_top_n_sigma, 0.7),
    *((ours, 0.3) for ours, _, _ in STOCK_CUTS),
]


@pytest.mark.parametrize(("cut", "value"), CUTS)
def test_a_cut_of_a_row_is_the_same_beside_others(cut: Any, value: float) -> None:
    logits = torch.randn(5, 400, generator=torch.Generator().manual_seed(2)) * 3
    logits[2, :390] = OUT
    logits[3] = 1.0
    alone = torch.cat([cut(row[None], value) for row in logits])
    assert torch.equal(cut(logits, value).isfinite(), alone.isfinite())


@pytest.mark.parametrize(("cut", "value"), CUTS)
def test_a_row_of_which_nothing_is_left_stays_empty(cut: Any, value: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [OUT] * 4])
    kept = cut(logits, value)
    assert torch.equal(kept[:1], cut(logits[:1], value))
    assert not (kept[1] > OUT).any()


# Cuts of the same small distribution, worked by hand.
HALVES = [0.5, 0.25, 0.125, 0.0625, 0.0625]


@pytest.mark.parametrize(
    ("cut", "value", "kept"),
    [
        # 0.125 is a quarter of 0.5.
        (cuts.keep_min_p, 0.25, [0, 1, 2]),
        (cuts.keep_min_p, 0.26, [0, 1]),
        (cuts.keep_min_p, 1.0, [0]),
        (cuts.keep_epsilon, 0.07, [0, 1, 2]),
        (cuts.keep_epsilon, 0.6, [0]),
        # The entropy is 1.875 bits; in bits of surprise the tokens are 1, 2, 3, 4, 4, so the second is nearest, the
        # first next, then the third.
        (cuts.keep_typical, 0.2, [1]),
        (cuts.keep_typical, 0.6, [0, 1]),
        (cuts.keep_typical, 0.8, [0, 1, 2]),
        (cuts.keep_typical, 0.9, [0, 1, 2, 3, 4]),
        # exp(-entropy) is 2 ** -1.875 = 0.2726, so of 0.16 eta is 0.4 * 0.2726 = 0.109.
        (cuts.keep_eta, 0.16, [0, 1, 2]),
        (cuts.keep_eta, 0.5, [0, 1]),
        (cuts.keep_eta, 0.06, [0, 1, 2, 3, 4]),
        # The terms of the entropy are 0.5, 0.5, 0.375, 0.25, 0.25 bits.
        (cuts.keep_top_h, 0.1, [0]),
        (cuts.keep_top_h, 0.55, [0, 1]),
        (cuts.keep_top_h, 0.75, [0, 1, 2]),
        # In bits from the top the logits are 0, -1, -2, -3, -3: their mean is -1.8, their deviation 1.166.
        (cuts.keep_top_n_sigma, 0.8, [0]),
        (cuts.keep_top_n_sigma, 1.0, [0, 1]),
        (cuts.keep_top_n_sigma, 1.8, [0, 1, 2]),
        (cuts.keep_top_n_sigma, 2.6, [0, 1, 2, 3, 4]),
    ],
)
def test_a_cut_worked_by_hand(cut: Any, value: float, kept: list[int]) -> None:
    logits = torch.tensor([HALVES]).log()
    assert cut(logits, value)[0].isfinite().nonzero()[:, 0].tolist() == kept


@given(LOGITS, st.floats(0.01, 10), st.floats(0.1, 10))
def test_top_n_sigma_keeps_the_same_at_any_temperature(logits: Tensor, n: float, temperature: float) -> None:
    below = logits.amax(-1, keepdim=True) - logits
    deviations = torch.stack([row[row > OUT].std(unbiased=False) for row in logits])[:, None]
    expected = below <= n * deviations
    for kept in (cuts.keep_top_n_sigma(logits, n), cuts.keep_top_n_sigma(logits / temperature, n)):
        on_border = (below - n * deviations).abs() < 1e-4 * (1 + below)
        assert torch.equal(kept.isfinite() | on_border, expected | on_border)


@pytest.mark.parametrize("p", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.01, 0.5, 2.0])
def test_a_wide_nucleus_is_that_of_a_full_sort(spread: float, p: float) -> None:
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1)) * spread
    # One row whose nucleus is small, beside those whose is not.
    logits[1, 7] = 30.0
    values, ids = logits.double().softmax(-1).sort(dim=-1, descending=True)
    expected = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, ids, values.cumsum(-1) - values < p)
    # A sum of thousands of float32 numbers may round the border by a token.
    assert (cuts.keep_top_p(logits, p).isfinite() != expected).sum() <= 1


def test_a_nucleus_that_ends_among_more_equal_tokens_than_a_band_holds() -> None:
    logits = torch.zeros(2, 5_000)
    logits[1, :100] = 1.0
    kept = cuts.keep_top_p(logits, 0.5).isfinite()
    assert kept[0].nonzero()[:, 0].tolist() == list(range(int(kept[0].sum())))
    assert abs(int(kept[0].sum()) - 2500) <= 1
    assert kept[1, :100].all()
