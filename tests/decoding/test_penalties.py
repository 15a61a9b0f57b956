"""Each penalty and ban: transformers' own, or worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.logits import OUT, PENALTY, UNIFORM, VOCAB, logits_and_history
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from genlm.decoding import penalties


@given(logits_and_history(), PENALTY)
def test_repetition_penalty(case: tuple[Tensor, list[list[int]]], penalty: float) -> None:
    logits, history = case
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(history), logits)
    assert torch.equal(penalties.penalise_repetition(logits, history, penalty), expected)


@given(logits_and_history(), st.integers(1, 6))
def test_no_repeat_ngram(case: tuple[Tensor, list[list[int]]], size: int) -> None:
    logits, history = case
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor(history), logits)
    assert torch.equal(penalties.ban_repeated_ngrams(logits, history, size), expected)


def test_an_ngram_longer_than_the_history_bans_nothing() -> None:
    assert torch.equal(penalties.ban_repeated_ngrams(UNIFORM, [[1, 1]], 10**9), UNIFORM)


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300])
def test_no_penalty_makes_an_impossible_token_possible(penalty: float) -> None:
    penalised = penalties.penalise_repetition(torch.tensor([[OUT, -1.0, 2.0]]), [[0, 0]], penalty)
    assert penalised.tolist() == [[OUT, -1.0, 2.0]]


@given(logits_and_history(), st.integers(0, 15), st.floats(-3, 3), st.floats(-3, 3))
def test_presence_and_frequency_count_what_is_generated(
    case: tuple[Tensor, list[list[int]]], prompt_length: int, presence: float, frequency: float
) -> None:
    logits, history = case
    kept = penalties.penalise_use(logits, history, prompt_length, presence, frequency)
    for before, after, ids in zip(logits.tolist(), kept.tolist(), history, strict=True):
        for token in range(VOCAB):
            count = ids[prompt_length:].count(token)
            expected = before[token] - presence * (count > 0) - frequency * count
            assert after[token] == pytest.approx(expected, abs=1e-4)


def test_presence_and_frequency_by_hand() -> None:
    # Token 0 is the prompt's only, 1 came once and 2 twice.
    kept = penalties.penalise_use(torch.zeros(1, 4), [[0, 2, 1, 2]], 1, 0.5, 0.25)
    assert kept.tolist() == [[0.0, -0.75, -1.0, 0.0]]


@pytest.mark.parametrize(
    ("ids", "taken"),
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
def test_dry_by_hand(ids: list[int], taken: dict[int, float]) -> None:
    kept = penalties.penalise_repeats(torch.zeros(1, VOCAB), [ids], 0.5, 2.0, 2, {9})
    assert {token: -value for token, value in enumerate(kept[0].tolist()) if value} == taken


@given(st.lists(st.integers(0, 3), max_size=30))
def test_dry_penalises_what_repeats_the_longest_end(ids: list[int]) -> None:
    kept = penalties.penalise_repeats(torch.zeros(1, 4), [ids], 1.0, 2.0, 1, ())
    for token, value in enumerate(kept[0].tolist()):
        ends = [
            n
            for n in range(1, len(ids))
            if any(ids[at : at + n + 1] == [*ids[-n:], token] for at in range(len(ids) - n))
        ]
        assert -value == (2.0 ** (max(ends) - 1) if ends else 0.0)


def test_no_repeat_is_so_long_that_dry_makes_a_token_impossible() -> None:
    kept = penalties.penalise_repeats(torch.zeros(1, 4), [[1] * 500], 100.0, 100.0, 1, ())
    assert -math.inf < kept[0, 1] < -1e5


@given(logits_and_history(), st.integers(0, 5), st.integers(1, 12))
def test_min_new_tokens(case: tuple[Tensor, list[list[int]]], prompt_length: int, shortest: int) -> None:
    logits, history = case
    expected = MinNewTokensLengthLogitsProcessor(prompt_length, shortest, [0, 7])(torch.tensor(history), logits)
    assert torch.equal(penalties.ban_early_end(logits, history, prompt_length + shortest, {0, 7}), expected)


def test_an_end_token_beyond_the_vocabulary_needs_no_ban() -> None:
    assert torch.equal(penalties.ban_early_end(UNIFORM, [[1]], 5, {VOCAB + 3}), UNIFORM)


def test_a_bad_word_is_out_where_its_beginning_is_there() -> None:
    words = [(1,), (2, 3), (4, 2, 5), (0, 0, 0, 0, 6)]
    kept = penalties.ban_words(torch.zeros(3, 7), [[4, 2], [2, 4], [0]], words)
    out = [[token for token in range(7) if row[token] == OUT] for row in kept]
    assert out == [[1, 3, 5], [1], [1]]
