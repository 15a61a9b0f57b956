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
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
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
    for each in make_filters(strategy, prompt_length=0, eos_ids=()):
        logits = each(logits, history)
    return logits


CUT = st.floats(0.001, 0.999)
STOCK_CUTS: list[tuple[Any, Any, st.SearchStrategy[float]]] = [
    (filters.keep_top_h, TopHLogitsWarper, CUT),
    (filters.keep_min_p, MinPLogitsWarper, CUT),
    (filters.keep_typical, TypicalLogitsWarper, CUT),
    (filters.keep_epsilon, EpsilonLogitsWarper, CUT),
    (filters.keep_eta, EtaLogitsWarper, CUT),
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
    (filters.keep_top_k, 3),
    (filters.keep_top_p, 0.6),
    (filters.keep_top_n_sigma, 0.7),
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
        (filters.keep_min_p, 0.25, [0, 1, 2]),
        (filters.keep_min_p, 0.26, [0, 1]),
        (filters.keep_min_p, 1.0, [0]),
        (filters.keep_epsilon, 0.07, [0, 1, 2]),
        (filters.keep_epsilon, 0.6, [0]),
        # The entropy is 1.875 bits; in bits of surprise the tokens are 1, 2, 3, 4, 4, so the second is nearest, the
        # first next, then the third.
        (filters.keep_typical, 0.2, [1]),
        (filters.keep_typical, 0.6, [0, 1]),
        (filters.keep_typical, 0.8, [0, 1, 2]),
        (filters.keep_typical, 0.9, [0, 1, 2, 3, 4]),
        # exp(-entropy) is 2 ** -1.875 = 0.2726, so of 0.16 eta is 0.4 * 0.2726 = 0.109.
        (filters.keep_eta, 0.16, [0, 1, 2]),
        (filters.keep_eta, 0.5, [0, 1]),
        (filters.keep_eta, 0.06, [0, 1, 2, 3, 4]),
        # The terms of the entropy are 0.5, 0.5, 0.375, 0.25, 0.25 bits.
        (filters.keep_top_h, 0.1, [0]),
        (filters.keep_top_h, 0.55, [0, 1]),
        (filters.keep_top_h, 0.75, [0, 1, 2]),
        # In bits from the top the logits are 0, -1, -2, -3, -3: their mean is -1.8, their deviation 1.166.
        (filters.keep_top_n_sigma, 0.8, [0]),
        (filters.keep_top_n_sigma, 1.0, [0, 1]),
        (filters.keep_top_n_sigma, 1.8, [0, 1, 2]),
        (filters.keep_top_n_sigma, 2.6, [0, 1, 2, 3, 4]),
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
    for kept in (filters.keep_top_n_sigma(logits, n), filters.keep_top_n_sigma(logits / temperature, n)):
        on_border = (below - n * deviations).abs() < 1e-4 * (1 + below)
        assert torch.equal(kept.isfinite() | on_border, expected | on_border)


@given(logits_and_history(), st.integers(0, 15), st.floats(-3, 3), st.floats(-3, 3))
def test_presence_and_frequency_count_what_is_generated(
    case: tuple[Tensor, list[list[int]]], prompt_length: int, presence: float, frequency: float
) -> None:
    logits, history = case
    kept = filters.penalise_use(logits, history, prompt_length, presence, frequency)
    for before, after, ids in zip(logits.tolist(), kept.tolist(), history, strict=True):
        for token in range(VOCAB):
            count = ids[prompt_length:].count(token)
            expected = before[token] - presence * (count > 0) - frequency * count
            assert after[token] == pytest.approx(expected, abs=1e-4)


def test_presence_and_frequency_by_hand() -> None:
    # Token 0 is the prompt's only, 1 came once and 2 twice.
    kept = filters.penalise_use(torch.zeros(1, 4), [[0, 2, 1, 2]], 1, 0.5, 0.25)
    assert kept.tolist() == [[0.0, -0.75, -1.0, 0.0]]


@pytest.mark.parametrize(
    ("ids", "penalties"),
    [
        ([], {}),
        ([3], {}),
        ([1, 2, 3, 4], {}),
        # Only one token is repeated, and two are allowed.
        ([1, 2, 3, 1], {}),
        # 1 2 came before, and then 3.
        ([1, 2, 3, 1, 2], {3: 0.5}),
        ([0, 1, 2, 3, 0, 1, 2], {3: 1.0}),
        # Both 3 and 4 have followed; the longer repeat counts for each.
        ([0, 1, 2, 3, 1, 2, 4, 0, 1, 2], {3: 1.0, 4: 0.5}),
        ([5, 5, 5, 5], {5: 1.0}),
        # 9 breaks: as the last token, within the repeat, and as what follows it.
        ([1, 2, 9, 1, 2, 9], {}),
        ([9, 1, 3, 9, 1], {}),
        ([1, 2, 9, 1, 2], {}),
    ],
)
def test_dry_by_hand(ids: list[int], penalties: dict[int, float]) -> None:
    kept = filters.penalise_repeats(torch.zeros(1, VOCAB), [ids], 0.5, 2.0, 2, {9})
    assert {token: -value for token, value in enumerate(kept[0].tolist()) if value} == penalties


@given(st.lists(st.integers(0, 3), max_size=30))
def test_dry_penalises_what_repeats_the_longest_end(ids: list[int]) -> None:
    kept = filters.penalise_repeats(torch.zeros(1, 4), [ids], 1.0, 2.0, 1, ())
    for token, value in enumerate(kept[0].tolist()):
        ends = [
            n
            for n in range(1, len(ids))
            if any(ids[at : at + n + 1] == [*ids[-n:], token] for at in range(len(ids) - n))
        ]
        assert -value == (2.0 ** (max(ends) - 1) if ends else 0.0)


def test_no_repeat_is_so_long_that_dry_makes_a_token_impossible() -> None:
    kept = filters.penalise_repeats(torch.zeros(1, 4), [[1] * 500], 100.0, 100.0, 1, ())
    assert -math.inf < kept[0, 1] < -1e5


@given(logits_and_history(), st.integers(0, 5), st.integers(1, 12))
def test_min_new_tokens(case: tuple[Tensor, list[list[int]]], prompt_length: int, shortest: int) -> None:
    logits, history = case
    expected = MinNewTokensLengthLogitsProcessor(prompt_length, shortest, [0, 7])(torch.tensor(history), logits)
    assert torch.equal(filters.ban_early_end(logits, history, prompt_length + shortest, {0, 7}), expected)


def test_an_end_token_beyond_the_vocabulary_needs_no_ban() -> None:
    assert torch.equal(filters.ban_early_end(UNIFORM, [[1]], 5, {VOCAB + 3}), UNIFORM)


TOKEN = st.integers(0, VOCAB - 1)


@given(logits_and_history(), st.dictionaries(TOKEN, st.floats(-1e6, 1e6), min_size=1))
def test_logit_bias(case: tuple[Tensor, list[list[int]]], biases: dict[int, float]) -> None:
    logits, history = case
    expected = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in biases.items()])(
        torch.tensor(history), logits
    )
    assert torch.equal(filters.add_biases(logits, biases), expected)
    spelled = ";".join(f"{token}:{bias!r}" for token, bias in biases.items())
    assert torch.equal(apply(Strategy.parse(f"greedy:logit_bias={spelled}"), logits, history), expected)


@given(logits_and_history(), st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=8))
def test_bad_words(case: tuple[Tensor, list[list[int]]], words: list[list[int]]) -> None:
    logits, history = case
    words += [[5, 4], [*history[0][-1:], 3]]
    expected = NoBadWordsLogitsProcessor(words, eos_token_id=[0, 7])(torch.tensor(history), logits)
    made = make_filters(Strategy.parse("greedy"), prompt_length=0, eos_ids={0, 7}, bad_words_ids=words)
    assert torch.equal(made[0](logits, history), expected)


def test_a_bad_word_is_out_where_its_beginning_is_there() -> None:
    words = [(1,), (2, 3), (4, 2, 5), (0, 0, 0, 0, 6)]
    kept = filters.ban_words(torch.zeros(3, 7), [[4, 2], [2, 4], [0]], words)
    out = [[token for token in range(7) if row[token] == OUT] for row in kept]
    assert out == [[1, 3, 5], [1], [1]]


def test_the_end_of_a_text_is_no_bad_word() -> None:
    made = make_filters(Strategy.parse("greedy"), prompt_length=0, eos_ids={7}, bad_words_ids=[(7,)])
    assert made == []


def test_a_bias_comes_before_the_repetition_penalty() -> None:
    kept = apply(Strategy.parse("greedy:logit_bias=1:-3;2:4,repetition_penalty=2"), torch.ones(1, 4), [[1, 2]])
    assert kept.tolist() == [[1.0, -4.0, 2.5, 1.0]]


@given(
    logits_and_history(),
    st.fixed_dictionaries(
        {"repetition_penalty": PENALTY, "no_repeat_ngram_size": st.integers(0, 3), "temperature": st.floats(0.1, 5)}
    ),
    st.fixed_dictionaries(
        {
            "top_h": P,
            "top_k": st.integers(1, VOCAB),
            "min_p": st.floats(0.001, 0.5),
            "typical_p": P,
            "epsilon_cutoff": st.floats(0.001, 0.3),
            "eta_cutoff": st.floats(0.001, 0.5),
        }
    ),
    P,
)
def test_all_filters_together_apply_in_transformers_order(
    case: tuple[Tensor, list[list[int]]], modifiers: dict[str, Any], cuts: dict[str, Any], p: float
) -> None:
    logits, history = case
    size = modifiers["no_repeat_ngram_size"]
    stock: list[Any] = [RepetitionPenaltyLogitsProcessor(modifiers["repetition_penalty"])]
    stock += [NoRepeatNGramLogitsProcessor(size)] if size else []
    stock += [TemperatureLogitsWarper(modifiers["temperature"])]
    stock += [TopHLogitsWarper(cuts["top_h"]), TopKLogitsWarper(cuts["top_k"])]
    before_p = LogitsProcessorList(stock)(torch.tensor(history), logits)
    after_p = [MinPLogitsWarper(cuts["min_p"]), TypicalLogitsWarper(cuts["typical_p"])]
    after_p += [EpsilonLogitsWarper(cuts["epsilon_cutoff"]), EtaLogitsWarper(cuts["eta_cutoff"])]
    for row, ids, before in zip(logits, history, before_p, strict=True):
        if before.amax() == OUT or on_the_border(before, p):
            continue
        kept = TopPLogitsWarper(p)(None, before[None])
        # Which of equal tokens goes is arbitrary in transformers.
        if len(set(before[before > OUT].tolist())) < (before > OUT).sum():
            continue
        expected = LogitsProcessorList(after_p)(None, kept)
        ours = apply(Strategy.of("top-p", {**modifiers, **cuts, "top_p": p}), row[None], [ids])
        torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize("spec", ["greedy", "beam", "sample", "top-p:top_p=1", "typical:typical_p=1", "mirostat"])
def test_neutral_fields_filter_nothing(spec: str) -> None:
    assert make_filters(Strategy.parse(spec), prompt_length=1, eos_ids=[0]) == []


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
