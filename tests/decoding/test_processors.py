"""Logits processors: each equal to transformers' own or worked out by hand, and all together in transformers' order."""

from __future__ import annotations

import math
from collections import Counter
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.logits import (
    HALVES,
    LOGITS,
    ONE_HOT,
    OUT,
    PENALTY,
    ROW,
    SINGLE,
    UNIFORM,
    VOCAB,
    Numbers,
    P,
    Sampled,
    kept_tokens,
    logits_and_history,
    on_the_border,
)
from support.reference import next_distribution
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

import genlm
from genlm.decoding import processors
from genlm.decoding.declaration import Processor
from genlm.decoding.kinds import KINDS
from genlm.decoding.processors import (
    Xtc,
    add_bias,
    ban_early_end,
    ban_repeated_ngrams,
    ban_words,
    divide_by_temperature,
    keep_epsilon,
    keep_eta,
    keep_min_p,
    keep_top_h,
    keep_top_k,
    keep_top_n_sigma,
    keep_top_p,
    keep_typical,
    make_processors,
    make_stateful_processors,
    penalize_repeats,
    penalize_repetition,
    penalize_use,
)
from genlm.decoding.strategy import Strategy

TOKEN = st.integers(0, VOCAB - 1)
DECLARED = {each.implementation: each for kind in KINDS.values() for each in kind.processors}


def apply(strategy: Strategy, logits: Tensor, history: list[list[int]]) -> Tensor:
    return make_processors(strategy, prompt_length=0, eos_ids=())(logits, history)


# Declarations.


@pytest.mark.parametrize("declared", DECLARED.values(), ids=lambda each: each.implementation)
def test_a_processor_has_a_parameter_for_each_of_its_declared_fields(declared: Processor) -> None:
    found = resolve_name(declared.implementation)
    parameters = signature(found).parameters.keys() - {"logits", "history"}
    names = {field.name for field in declared.fields}
    assert parameters - {"prompt_length", "eos_ids", "bad_words_ids"} == names - {"bad_words"}
    assert found.__doc__


def test_a_field_belongs_to_one_processor_at_most() -> None:
    owners: dict[str, set[str]] = {}
    for processor in DECLARED.values():
        for field in processor.fields:
            owners.setdefault(field.name, set()).add(processor.implementation)
    assert all(len(found) == 1 for found in owners.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_processors_of_a_kind_have_distinct_orders_and_those_with_state_come_last(kind: Any) -> None:
    orders = [each.order for each in kind.processors]
    assert orders == sorted(set(orders))
    stateful = [each.has_state for each in kind.processors]
    assert stateful == sorted(stateful)


@pytest.mark.parametrize("spec", ["greedy", "beam", "sample", "top-p:top_p=1", "typical:typical_p=1", "mirostat"])
def test_fields_at_their_neutral_values_add_no_processor(spec: str) -> None:
    assert make_processors(Strategy.parse(spec), prompt_length=1, eos_ids=[0]).processors == ()


@pytest.mark.parametrize("spec", ["greedy", "sample", "top-p:top_p=0.5,xtc_threshold=0.3"])
def test_other_strategies_have_no_processor_with_state(spec: str) -> None:
    assert make_stateful_processors(Strategy.parse(spec)) == []


# Penalties and bans.


@given(logits_and_history(), st.dictionaries(TOKEN, st.floats(-1e6, 1e6), min_size=1))
def test_logit_bias_equals_transformers(case: tuple[Tensor, list[list[int]]], biases: dict[int, float]) -> None:
    logits, history = case
    expected = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in biases.items()])(
        torch.tensor(history), logits
    )
    assert torch.equal(add_bias(logits, history, tuple(biases.items())), expected)
    spelled = ";".join(f"{token}:{bias!r}" for token, bias in biases.items())
    assert torch.equal(apply(Strategy.parse(f"greedy:logit_bias={spelled}"), logits, history), expected)


@given(logits_and_history(), PENALTY)
def test_repetition_penalty_equals_transformers(case: tuple[Tensor, list[list[int]]], penalty: float) -> None:
    logits, history = case
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(history), logits)
    assert torch.equal(penalize_repetition(logits, history, penalty), expected)


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300])
def test_an_extreme_repetition_penalty_makes_no_impossible_token_possible(penalty: float) -> None:
    penalised = penalize_repetition(torch.tensor([[OUT, -1.0, 2.0]]), [[0, 0]], penalty)
    assert penalised.tolist() == [[OUT, -1.0, 2.0]]


@given(logits_and_history(), st.integers(0, 15), st.floats(-3, 3), st.floats(-3, 3))
def test_presence_and_frequency_count_generated_tokens(
    case: tuple[Tensor, list[list[int]]], prompt_length: int, presence: float, frequency: float
) -> None:
    logits, history = case
    kept = penalize_use(logits, history, presence, frequency, prompt_length)
    for before, after, ids in zip(logits.tolist(), kept.tolist(), history, strict=True):
        for token in range(VOCAB):
            count = ids[prompt_length:].count(token)
            expected = before[token] - presence * (count > 0) - frequency * count
            assert after[token] == pytest.approx(expected, abs=1e-4)


def test_presence_and_frequency_by_hand() -> None:
    # Token 0 is only in the prompt; 1 was generated once, and 2 twice.
    kept = penalize_use(torch.zeros(1, 4), [[0, 2, 1, 2]], 0.5, 0.25, prompt_length=1)
    assert kept.tolist() == [[0.0, -0.75, -1.0, 0.0]]


@pytest.mark.parametrize(
    ("ids", "penalties"),
    [
        ([], {}),
        ([3], {}),
        ([1, 2, 3, 4], {}),
        # Only one token is repeated, and two are allowed.
        ([1, 2, 3, 1], {}),
        # 1 2 occurred before, followed by 3.
        ([1, 2, 3, 1, 2], {3: 0.5}),
        ([0, 1, 2, 3, 0, 1, 2], {3: 1.0}),
        # Both 3 and 4 have followed; the longer repeat counts for each.
        ([0, 1, 2, 3, 1, 2, 4, 0, 1, 2], {3: 1.0, 4: 0.5}),
        ([5, 5, 5, 5], {5: 1.0}),
        # 9 ends a text: as the last token, within the repeat, and after it.
        ([1, 2, 9, 1, 2, 9], {}),
        ([9, 1, 3, 9, 1], {}),
        ([1, 2, 9, 1, 2], {}),
    ],
)
def test_dry_by_hand(ids: list[int], penalties: dict[int, float]) -> None:
    kept = penalize_repeats(torch.zeros(1, VOCAB), [ids], 0.5, 2.0, 2, eos_ids={9})
    assert {token: -value for token, value in enumerate(kept[0].tolist()) if value} == penalties


@given(st.lists(st.integers(0, 3), max_size=30))
def test_dry_penalizes_tokens_that_extend_the_longest_repeat(ids: list[int]) -> None:
    kept = penalize_repeats(torch.zeros(1, 4), [ids], 1.0, 2.0, 1, eos_ids=())
    for token, value in enumerate(kept[0].tolist()):
        ends = [
            n
            for n in range(1, len(ids))
            if any(ids[at : at + n + 1] == [*ids[-n:], token] for at in range(len(ids) - n))
        ]
        assert -value == (2.0 ** (max(ends) - 1) if ends else 0.0)


def test_dry_never_makes_a_token_impossible() -> None:
    kept = penalize_repeats(torch.zeros(1, 4), [[1] * 500], 100.0, 100.0, 1, eos_ids=())
    assert -math.inf < kept[0, 1] < -1e5


@given(logits_and_history(), st.integers(1, 6))
def test_no_repeat_ngram_equals_transformers(case: tuple[Tensor, list[list[int]]], size: int) -> None:
    logits, history = case
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor(history), logits)
    assert torch.equal(ban_repeated_ngrams(logits, history, size), expected)


def test_an_ngram_longer_than_the_history_rules_out_nothing() -> None:
    assert torch.equal(ban_repeated_ngrams(UNIFORM, [[1, 1]], 10**9), UNIFORM)


@given(logits_and_history(), st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=8))
def test_banned_words_equal_transformers(case: tuple[Tensor, list[list[int]]], words: list[list[int]]) -> None:
    logits, history = case
    words += [[5, 4], [*history[0][-1:], 3]]
    expected = NoBadWordsLogitsProcessor(words, eos_token_id=[0, 7])(torch.tensor(history), logits)
    strategy = Strategy.of("greedy", {"bad_words": ["any"]})
    made = make_processors(strategy, prompt_length=0, eos_ids={0, 7}, bad_words_ids=words)
    assert torch.equal(made(logits, history), expected)


def test_a_banned_word_is_ruled_out_after_its_beginning() -> None:
    words = [(1,), (2, 3), (4, 2, 5), (0, 0, 0, 0, 6)]
    kept = ban_words(torch.zeros(3, 7), [[4, 2], [2, 4], [0]], words, eos_ids=())
    out = [[token for token in range(7) if row[token] == OUT] for row in kept]
    assert out == [[1, 3, 5], [1], [1]]


def test_the_end_of_a_text_cannot_be_banned() -> None:
    assert torch.equal(ban_words(UNIFORM, [[1]], [(7,)], eos_ids={7}), UNIFORM)


@given(logits_and_history(), st.integers(0, 5), st.integers(1, 12))
def test_min_new_tokens_equals_transformers(
    case: tuple[Tensor, list[list[int]]], prompt_length: int, least: int
) -> None:
    logits, history = case
    expected = MinNewTokensLengthLogitsProcessor(prompt_length, least, [0, 7])(torch.tensor(history), logits)
    assert torch.equal(ban_early_end(logits, history, least, prompt_length, eos_ids={0, 7}), expected)


def test_an_end_token_beyond_the_vocabulary_needs_no_ban() -> None:
    assert torch.equal(ban_early_end(UNIFORM, [[1]], 5, 0, eos_ids={VOCAB + 3}), UNIFORM)


# The temperature and the truncations.


@given(LOGITS, st.floats(0.05, 20))
@example(UNIFORM, 0.7)
@example(SINGLE, 1.5)
@example(ONE_HOT, 0.05)
def test_temperature_equals_transformers(logits: Tensor, temperature: float) -> None:
    expected = TemperatureLogitsWarper(temperature)(None, logits).softmax(-1)
    torch.testing.assert_close(divide_by_temperature(logits, [], temperature).softmax(-1), expected)


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-40, 1e-10, 1e10, 1e300])
def test_no_temperature_is_too_low_or_too_high(temperature: float) -> None:
    logits = torch.tensor([[1.0, OUT, 300.0, 299.0, -300.0]])
    probabilities = divide_by_temperature(logits, [], temperature).softmax(-1)
    some, none = probabilities[0, [0, 2, 3, 4]], probabilities[0, 1]
    assert none == 0
    expected = [0.0, 1.0, 0.0, 0.0] if temperature < 1 else [0.25] * 4
    torch.testing.assert_close(some, torch.tensor(expected))


@given(LOGITS, st.integers(1, VOCAB + 3))
@example(UNIFORM, 3)
@example(SINGLE, 3)
@example(ONE_HOT, 1)
def test_top_k_equals_transformers(logits: Tensor, k: int) -> None:
    assert torch.equal(keep_top_k(logits, [], k), TopKLogitsWarper(k)(None, logits))


@given(LOGITS, P)
@example(UNIFORM, 0.3)
@example(UNIFORM, 0.55)
@example(SINGLE, 0.01)
@example(ONE_HOT, 0.999)
# Different logits, but equal probabilities.
@example(torch.tensor([[0.0, 2e-8]]), 0.3)
def test_top_p_equals_transformers(logits: Tensor, p: float) -> None:
    kept = keep_top_p(logits, [], p)
    stock = TopPLogitsWarper(p)(None, logits)
    for row, ours, theirs in zip(logits, kept, stock, strict=True):
        is_in = ours > OUT
        assert torch.equal(ours[is_in], row[is_in])
        assert is_in.any()
        probabilities = row.double().softmax(-1)[is_in]
        assert probabilities.sum() >= p - 1e-5
        assert probabilities.sum() - probabilities.min() < p + 1e-5
        # transformers drops any of several equally likely tokens, and rounding decides on the border.
        likely = row.softmax(-1)
        if not on_the_border(row, p):
            assert torch.equal(likely[ours > OUT].sort().values, likely[theirs > OUT].sort().values)


def test_top_p_keeps_the_first_of_equal_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]])
    assert kept_tokens(keep_top_p(logits, [], 0.7)) == [[0, 1, 2, 5]]


def test_a_row_keeps_the_same_tokens_beside_one_that_needs_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "SHORTLIST", 3)
    tied, flat = torch.tensor([[0.0, 3.0, 0.0, 3.0, 0.0, 3.0]]), torch.zeros(1, 6)
    alone = keep_top_p(tied, [], 0.5)
    beside = keep_top_p(torch.cat([flat, tied]), [], 0.5)
    assert torch.equal(beside[1:], alone)
    assert int(beside[0].isfinite().sum()) == 3
    assert torch.equal(keep_top_p(flat, [], 0.9).isfinite(), torch.tensor([[True] * 6]))


@given(ROW.filter(lambda row: max(row) > OUT), P)
def test_the_shortlist_of_top_p_changes_nothing(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    whole = keep_top_p(logits, [], p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processors, "SHORTLIST", 2)
        assert torch.equal(keep_top_p(logits, [], p), whole)


@pytest.mark.parametrize("p", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("spread", [0.01, 0.5, 2.0])
def test_a_wide_nucleus_equals_that_of_a_full_sort(spread: float, p: float) -> None:
    logits = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1)) * spread
    # One row with a small nucleus, beside two with a large one.
    logits[1, 7] = 30.0
    values, ids = logits.double().softmax(-1).sort(dim=-1, descending=True)
    expected = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, ids, values.cumsum(-1) - values < p)
    # A sum of thousands of float32 numbers may move the border by a token.
    assert (keep_top_p(logits, [], p).isfinite() != expected).sum() <= 1


def test_a_nucleus_that_ends_among_more_equal_tokens_than_a_band_holds() -> None:
    logits = torch.zeros(2, 5_000)
    logits[1, :100] = 1.0
    kept = keep_top_p(logits, [], 0.5).isfinite()
    assert kept[0].nonzero()[:, 0].tolist() == list(range(int(kept[0].sum())))
    assert abs(int(kept[0].sum()) - 2500) <= 1
    assert kept[1, :100].all()


CUTOFF = st.floats(0.001, 0.999)
STOCK: list[tuple[Any, Any]] = [
    (keep_top_h, TopHLogitsWarper),
    (keep_min_p, MinPLogitsWarper),
    (keep_typical, TypicalLogitsWarper),
    (keep_epsilon, EpsilonLogitsWarper),
    (keep_eta, EtaLogitsWarper),
]


@pytest.mark.parametrize(("ours", "stock"), STOCK, ids=lambda part: part.__name__)
@given(logits=LOGITS, value=CUTOFF)
def test_a_truncation_equals_transformers(ours: Any, stock: Any, logits: Tensor, value: float) -> None:
    assert torch.equal(ours(logits, [], value), stock(value)(None, logits))


@pytest.mark.parametrize(("ours", "stock"), STOCK, ids=lambda part: part.__name__)
@pytest.mark.parametrize("value", [0.001, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("logits", [UNIFORM, SINGLE, ONE_HOT], ids=["uniform", "single", "one-hot"])
def test_a_truncation_of_an_extreme_distribution_equals_transformers(
    ours: Any, stock: Any, value: float, logits: Tensor
) -> None:
    kept = ours(logits, [], value)
    assert torch.equal(kept, stock(value)(None, logits))
    assert (kept > OUT).any()


TRUNCATIONS = [(keep_top_k, 3), (keep_top_p, 0.6), (keep_top_n_sigma, 0.7), *((ours, 0.3) for ours, _ in STOCK)]


@pytest.mark.parametrize(("truncate", "value"), TRUNCATIONS)
def test_a_row_is_truncated_the_same_beside_others(truncate: Any, value: float) -> None:
    logits = torch.randn(5, 400, generator=torch.Generator().manual_seed(2)) * 3
    logits[2, :390] = OUT
    logits[3] = 1.0
    alone = torch.cat([truncate(row[None], [], value) for row in logits])
    assert torch.equal(truncate(logits, [], value).isfinite(), alone.isfinite())


@pytest.mark.parametrize(("truncate", "value"), TRUNCATIONS)
def test_a_row_without_possible_tokens_stays_empty(truncate: Any, value: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [OUT] * 4])
    kept = truncate(logits, [], value)
    assert torch.equal(kept[:1], truncate(logits[:1], [], value))
    assert not (kept[1] > OUT).any()


@pytest.mark.parametrize(
    ("truncate", "value", "kept"),
    [
        # 0.125 is a quarter of 0.5.
        (keep_min_p, 0.25, [0, 1, 2]),
        (keep_min_p, 0.26, [0, 1]),
        (keep_min_p, 1.0, [0]),
        (keep_epsilon, 0.07, [0, 1, 2]),
        (keep_epsilon, 0.6, [0]),
        # The entropy is 1.875 bits and the tokens' surprise 1, 2, 3, 4 and 4 bits, so the second is closest, then the
        # first, then the third.
        (keep_typical, 0.2, [1]),
        (keep_typical, 0.6, [0, 1]),
        (keep_typical, 0.8, [0, 1, 2]),
        (keep_typical, 0.9, [0, 1, 2, 3, 4]),
        # exp(-entropy) is 2 ** -1.875 = 0.2726, so for a cutoff of 0.16, eta is 0.4 * 0.2726 = 0.109.
        (keep_eta, 0.16, [0, 1, 2]),
        (keep_eta, 0.5, [0, 1]),
        (keep_eta, 0.06, [0, 1, 2, 3, 4]),
        # The terms of the entropy are 0.5, 0.5, 0.375, 0.25 and 0.25 bits.
        (keep_top_h, 0.1, [0]),
        (keep_top_h, 0.55, [0, 1]),
        (keep_top_h, 0.75, [0, 1, 2]),
        # In bits below the top, the logits are 0, -1, -2, -3 and -3: their mean is -1.8, their deviation 1.166.
        (keep_top_n_sigma, 0.8, [0]),
        (keep_top_n_sigma, 1.0, [0, 1]),
        (keep_top_n_sigma, 1.8, [0, 1, 2]),
        (keep_top_n_sigma, 2.6, [0, 1, 2, 3, 4]),
    ],
)
def test_a_truncation_by_hand(truncate: Any, value: float, kept: list[int]) -> None:
    assert kept_tokens(truncate(HALVES, [], value)) == [kept]


@given(LOGITS, st.floats(0.01, 10), st.floats(0.1, 10))
def test_top_n_sigma_keeps_the_same_at_any_temperature(logits: Tensor, n: float, temperature: float) -> None:
    below = logits.amax(-1, keepdim=True) - logits
    deviations = torch.stack([row[row > OUT].std(unbiased=False) for row in logits])[:, None]
    expected = below <= n * deviations
    for kept in (keep_top_n_sigma(logits, [], n), keep_top_n_sigma(logits / temperature, [], n)):
        on_border = (below - n * deviations).abs() < 1e-4 * (1 + below)
        assert torch.equal(kept.isfinite() | on_border, expected | on_border)


# XTC.


@pytest.mark.parametrize(
    ("threshold", "tokens"),
    [
        (0.4, [0, 1, 2, 3, 4]),
        (0.25, [1, 2, 3, 4]),
        (0.1, [2, 3, 4]),
        # Of the two least likely, the first stays.
        (0.05, [3]),
    ],
)
def test_xtc_rules_out_all_top_choices_but_the_least_likely(threshold: float, tokens: list[int]) -> None:
    xtc = Xtc(0.5, threshold)
    assert kept_tokens(xtc.process(HALVES, [Sampled(Numbers(0.49))])) == [tokens]
    assert kept_tokens(xtc.process(HALVES, [Sampled(Numbers(0.5))])) == [[0, 1, 2, 3, 4]]


def test_xtc_draws_for_every_sequence_separately() -> None:
    sequences = [Sampled(Numbers(0.9)), Sampled(Numbers(0.1))]
    processed = Xtc(0.3, 0.2).process(HALVES.expand(2, -1), sequences)
    assert kept_tokens(processed) == [[0, 1, 2, 3, 4], [1, 2, 3, 4]]


@given(st.lists(st.sampled_from([OUT, -2.0, 0.0, 0.5, 3.0]), min_size=1, max_size=9).filter(lambda row: max(row) > OUT))
def test_xtc_always_keeps_a_possible_token(row: list[float]) -> None:
    logits = torch.tensor([row])
    left = Xtc(1.0, 0.01).process(logits, [Sampled(Random(0))])
    assert (left > OUT).any()
    assert ((left > OUT) <= (logits > OUT)).all()


def test_xtc_in_a_generation_has_the_distribution_of_its_definition(tiny: Path) -> None:
    lm, draws = genlm.load(str(tiny), device="cpu"), 4000
    strategy = "sample:xtc_probability=0.4,xtc_threshold=0.05,temperature=0.2"
    made = lm.generate("Once upon a time", strategy=strategy, max_new_tokens=1, num_return_sequences=draws, seed=2)
    counts = Counter(each.token_ids[0] for each in made.completions)
    plain = next_distribution(tiny, made.prompt_token_ids) ** (1 / 0.2)
    plain /= plain.sum()
    top = (plain >= 0.05).nonzero()[:, 0].tolist()
    assert len(top) >= 2
    excluding = plain.clone()
    for token in top:
        if token != min(top, key=lambda each: float(plain[each])):
            excluding[token] = 0
    expected = 0.6 * plain + 0.4 * excluding / excluding.sum()
    for token in top:
        share = float(expected[token])
        assert abs(counts[token] / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


# All processors of a strategy.


def test_a_bias_applies_before_the_repetition_penalty() -> None:
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
def test_all_processors_together_apply_in_transformers_order(
    case: tuple[Tensor, list[list[int]]], modifiers: dict[str, Any], cutoffs: dict[str, Any], p: float
) -> None:
    logits, history = case
    size = modifiers["no_repeat_ngram_size"]
    stock: list[Any] = [RepetitionPenaltyLogitsProcessor(modifiers["repetition_penalty"])]
    stock += [NoRepeatNGramLogitsProcessor(size)] if size else []
    stock += [TemperatureLogitsWarper(modifiers["temperature"])]
    stock += [TopHLogitsWarper(cutoffs["top_h"]), TopKLogitsWarper(cutoffs["top_k"])]
    before_p = LogitsProcessorList(stock)(torch.tensor(history), logits)
    after_p = [MinPLogitsWarper(cutoffs["min_p"]), TypicalLogitsWarper(cutoffs["typical_p"])]
    after_p += [EpsilonLogitsWarper(cutoffs["epsilon_cutoff"]), EtaLogitsWarper(cutoffs["eta_cutoff"])]
    for row, ids, before in zip(logits, history, before_p, strict=True):
        if before.amax() == OUT or on_the_border(before, p):
            continue
        kept = TopPLogitsWarper(p)(None, before[None])
        # transformers drops any of several equal tokens.
        if len(set(before[before > OUT].tolist())) < (before > OUT).sum():
            continue
        expected = LogitsProcessorList(after_p)(None, kept)
        ours = apply(Strategy.of("top-p", {**modifiers, **cutoffs, "top_p": p}), row[None], [ids])
        torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1))


def test_processors_leave_their_input_unchanged() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, OUT]])
    spec = "top-p:top_p=0.5,top_k=2,temperature=0.5,repetition_penalty=2,no_repeat_ngram_size=1"
    apply(Strategy.parse(spec), logits, [[1]])
    assert logits.tolist() == [[3.0, 2.0, 1.0, OUT]]


def test_beams_process_log_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    logprobs = logits.log_softmax(-1)
    for spec in ("beam", "diverse-beam", "beam-sample"):
        scores = apply(Strategy.parse(f"{spec}:repetition_penalty=2"), logits, [[0]])
        assert torch.equal(scores, logprobs * torch.tensor([[2.0, 1.0, 1.0]]))
    assert apply(Strategy.parse("greedy:repetition_penalty=2"), logits, [[0]]).tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("spec", "kept"), [("greedy", [2]), ("sample", [0, 1, 2]), ("top-k:top_k=2", [0, 2]), ("beam", [0, 1, 2])]
)
def test_a_strategy_that_draws_nothing_has_one_token_in_its_distribution(spec: str, kept: list[int]) -> None:
    made = make_processors(Strategy.parse(spec), prompt_length=1, eos_ids=())
    assert kept_tokens(made.distribution(torch.tensor([[1.0, 0.0, 2.0]]), [[0]])) == [kept]
