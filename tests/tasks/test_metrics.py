"""The metrics of a comparison: each against cases worked out by hand, and another implementation where there is one."""

from __future__ import annotations

import math
import random
from statistics import linear_regression

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from genlm.records.compare import METRICS, Cell, Judgement, Sample
from genlm.tasks.metrics import (
    RESAMPLES,
    Measure,
    ZipfFit,
    average,
    distances,
    distinct,
    estimate,
    is_stuck,
    judge_perplexity,
    mean_of,
    measure_all,
    overlaps,
    perplexity,
    repeated_part,
    resample,
    self_bleu,
    speed,
    zipf,
)

TEXTS = st.lists(st.lists(st.integers(0, 6), max_size=14), min_size=1, max_size=6)


def value(measure: Measure, texts: int) -> float:
    """A metric of texts that each count once."""
    return float(measure(np.ones((1, texts)))[0])


def bleu_of(texts: list[list[int]], order: int) -> list[float | None]:
    """The Self-BLEU of each text."""
    return self_bleu(overlaps(texts, 5), order)


def sample(tokens: list[int], *, reason: str = "length", prompt: int = 0, **changes: object) -> Sample:
    """A completion of tokens, each with a log-probability of -1 and an entropy of 2."""
    count = len(tokens)
    fields = {"logprobs": (-1.0,) * count, "entropies": (2.0,) * count, **changes}
    return Sample(prompt, 0, "text", tuple(tokens), reason, **fields)  # type: ignore[arg-type]


def test_perplexity_is_exp_of_the_mean_surprise_over_all_tokens() -> None:
    half, eighth = math.log(1 / 2), math.log(1 / 8)
    assert value(perplexity([[half, half], [eighth, eighth]]), 2) == pytest.approx(4)
    # A text of three tokens weighs three times as much as one of one.
    assert value(perplexity([[half] * 3, [eighth]]), 2) == pytest.approx((2 * 2 * 2 * 8) ** (1 / 4))
    assert value(perplexity([[None, eighth]]), 1) == pytest.approx(8), "what nothing stands before does not count"
    assert value(mean_of([[half] * 3, [eighth]]), 2) == pytest.approx((3 * half + eighth) / 4)


def test_the_judge_counts_in_its_own_tokens() -> None:
    judged = [sample([1], judgement=Judgement(math.log(1 / 9), 2)), sample([1]), sample([1, 2])]
    assert value(judge_perplexity(judged), 3) == pytest.approx(3)
    assert math.isnan(value(judge_perplexity(judged[1:]), 2))


@pytest.mark.parametrize(
    ("texts", "order", "expected"),
    [
        ([[1, 2, 1, 2]], 1, 2 / 4),
        ([[1, 2, 1, 2]], 2, 2 / 3),
        ([[1, 2, 3], [1, 2, 4]], 2, 3 / 4),
        ([[1, 2, 3], [1, 2, 3]], 3, 1 / 2),
        ([[1], []], 1, 1.0),
    ],
)
def test_distinct_is_different_over_all_ngrams_of_all_texts(
    texts: list[list[int]], order: int, expected: float
) -> None:
    assert value(distinct(texts, order), len(texts)) == pytest.approx(expected)


@given(TEXTS, st.integers(1, 3))
def test_distinct_is_what_a_set_counts(texts: list[list[int]], order: int) -> None:
    runs = [tuple(text[at : at + order]) for text in texts for at in range(len(text) - order + 1)]
    found = value(distinct(texts, order), len(texts))
    assert found == pytest.approx(len(set(runs)) / len(runs)) if runs else math.isnan(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([1, 2, 3, 4], 0.0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),
        ([7] * 6, 2 / 3),
        ([1, 2, 3], None),
        ([], None),
    ],
)
def test_seq_rep_is_the_part_of_ngrams_that_come_again(text: list[int], expected: float | None) -> None:
    assert repeated_part(text, 4) == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ([9, 1, 2, 1, 2, 1, 2], True),
        ([1, 2, 1, 2], False),
        ([1, 2, 1, 2, 1, 2, 9], False),
        ([5, 5, 5, 5, 5, 5], True),
        ([5, 5, 5, 5, 5], False),
        ([*range(60), *range(60), *range(60)], True),
        ([*range(10)] * 3, True),
        ([3], False),
        ([], False),
    ],
)
def test_a_text_is_stuck_where_two_tokens_or_more_stand_three_times_at_its_end(text: list[int], expected: bool) -> None:
    assert is_stuck(text) is expected


def test_a_loop_counts_within_the_first_200_tokens_only() -> None:
    assert is_stuck([*range(194), 1, 2, 1, 2, 1, 2])
    assert not is_stuck([*range(200), 1, 2, 1, 2, 1, 2])
    assert is_stuck([*range(194), 1, 2, 1, 2, 1, 2, *range(50)])


@given(st.lists(st.integers(0, 2), max_size=12))
def test_a_loop_is_what_a_pattern_finds(text: list[int]) -> None:
    import re

    spelled = "".join(map(str, text))
    assert is_stuck(text) == bool(re.search(r"(..+)\1\1$", spelled))


def test_zipf_is_the_slope_of_a_power_law() -> None:
    assert zipf(1000 / np.arange(1, 50)) == pytest.approx(1)
    assert zipf(np.arange(1, 50) ** -0.5) == pytest.approx(0.5)
    assert zipf(np.array([3.0, 3.0, 0.0])) == pytest.approx(0)
    assert zipf(np.array([8.0, 2.0])) == pytest.approx(2)
    assert math.isnan(zipf(np.array([5.0])))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=30))
def test_zipf_is_the_regression_of_the_standard_library(counts: list[int]) -> None:
    ranks = [math.log(rank) for rank in range(1, len(counts) + 1)]
    slope = linear_regression(ranks, [math.log(count) for count in sorted(counts, reverse=True)]).slope
    assert zipf(np.array(counts)) == pytest.approx(-slope, abs=1e-9)


def test_zipf_looks_at_the_5000_most_frequent_tokens() -> None:
    counts = np.concatenate([1e6 / np.arange(1, 5001), np.full(1000, 0.001)])
    assert zipf(counts) == pytest.approx(1)


def test_self_bleu_of_texts_that_are_the_same_is_one_and_of_strangers_none() -> None:
    assert bleu_of([[1, 2, 3, 4, 5]] * 3, 4) == pytest.approx([1, 1, 1])
    assert bleu_of([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], 4) == [0, 0]


def test_self_bleu_by_hand() -> None:
    # Of the first, 4 of 5 tokens are in the second, 3 of 4 pairs, 2 of 3 threes and 1 of 2 fours; both are as long.
    first, second = bleu_of([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], 4)
    assert first == second == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))
    # No pair is common: 0.1 of 1 counts as if it were. The other text is longer, so brevity costs exp(1 - 3 / 2).
    short, _ = bleu_of([[1, 2], [1, 3, 2]], 2)
    assert short == pytest.approx((1 * 0.1) ** (1 / 2) * math.exp(1 - 3 / 2))


@given(TEXTS, st.sampled_from([4, 5]))
def test_self_bleu_is_sacrebleu_of_each_text_against_the_others(texts: list[list[int]], order: int) -> None:
    bleu = BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, max_ngram_order=order, effective_order=True)
    spelled = [" ".join(map(str, text)) for text in texts]
    for at, found in enumerate(bleu_of(texts, order)):
        others = [text for place, text in enumerate(spelled) if place != at and text]
        if spelled[at] and others:
            assert found == pytest.approx(bleu.sentence_score(spelled[at], others).score / 100)
        else:
            assert found is None


def test_the_length_leaves_the_end_token_out_and_says_who_ended() -> None:
    cells = [Cell(0, (sample([1, 2, 3, 0], reason="eos"), sample([1, 2, 3, 4, 5])), 2.0)]
    found = measure_all(cells, 0)
    assert found["length"]
    assert found["length"].mean == 4
    assert found["ended"]
    assert found["ended"].mean == 50
    assert found["tokens_per_s"]
    assert found["tokens_per_s"].mean == 9 / 2
    assert found["tokens_per_s"].low is None, "both share one time"


def test_speed_is_all_tokens_over_all_seconds() -> None:
    cells = [Cell(0, (sample([1] * 10),), 1.0), Cell(1, (sample([1] * 10),), 4.0)]
    assert value(speed(cells), 2) == 4
    assert math.isnan(value(speed([Cell(None, (sample([1]),))]), 1))


def test_a_text_without_a_value_does_not_count_in_an_average() -> None:
    assert value(average([1.0, None, 4.0]), 3) == 2.5
    assert math.isnan(value(average([None]), 1))


@pytest.mark.parametrize("tokens", [[], [5]], ids=["empty", "one token"])
@pytest.mark.parametrize("count", [1, 3])
def test_empty_and_one_token_completions_have_the_metrics_that_they_define(tokens: list[int], count: int) -> None:
    ended = tuple(sample([*tokens, 0], reason="eos") for _ in range(count))
    found = measure_all([Cell(0, ended, 1.0)], 0)
    assert set(found) == set(METRICS)
    defined = {name for name, each in found.items() if each is not None}
    always = {"perplexity", "mean_logprob", "entropy", "repetition", "length", "ended", "tokens_per_s"}
    with_tokens = {"distinct_1"} | ({"self_bleu_4", "self_bleu_5"} if count > 1 else set())
    assert defined == always | (with_tokens if tokens else set())
    assert found["repetition"]
    assert found["repetition"].mean == 0
    assert found["length"]
    assert found["length"].mean == len(tokens)


def test_no_sample_at_all_defines_nothing() -> None:
    assert set(measure_all([Cell(0, error="failed")], 0).values()) == {None}


def test_the_interval_of_a_mean_is_that_of_the_usual_bootstrap() -> None:
    numbers = random.Random(1).choices(range(100), k=40)
    found = estimate(average([float(number) for number in numbers]), resample([1] * 40, 7))
    drawn = np.random.default_rng(8).choice(numbers, size=(20_000, 40)).mean(axis=1)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(np.mean(numbers))
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=1.5)


def test_prompts_are_drawn_and_then_their_samples() -> None:
    weights = resample([3, 1, 2], 0)
    assert weights.shape == (RESAMPLES, 6)
    assert (weights.sum(axis=1) >= 1).all()
    drawn = np.array([weights[:, :3].sum(axis=1) / 3, weights[:, 3], weights[:, 4:].sum(axis=1) / 2])
    assert (drawn == drawn.round()).all(), "a prompt brings as many samples as it has"
    assert (drawn.sum(axis=0) == 3).all(), "there are as many prompts in a resample as there were"
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.1)


def test_a_text_that_a_resample_takes_twice_does_not_repeat_itself() -> None:
    texts = [[number * 10 + place for place in range(6)] for number in range(8)]
    for measure in (distinct(texts, 2), average(bleu_of(texts, 4))):
        found = estimate(measure, resample([1] * 8, 0))
        assert found is not None
        assert found.low == pytest.approx(found.mean)
        assert found.high == pytest.approx(found.mean)


def test_the_interval_of_zipf_holds_its_value() -> None:
    numbers = random.Random(3)
    texts = [[int(40 * numbers.random() ** 3) for _ in range(30)] for _ in range(12)]
    found = estimate(ZipfFit(texts), resample([1] * 12, 0))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    cells = [Cell(0, tuple(sample(list(range(3 + at))) for at in range(6)), 1.0)]
    assert measure_all(cells, 4) == measure_all(cells, 4)
    assert measure_all(cells, 4) != measure_all(cells, 5)


def test_a_single_text_has_no_interval() -> None:
    found = measure_all([Cell(0, (sample([1, 2, 3]),), 1.0)], 0)["perplexity"]
    assert found is not None
    assert (found.mean, found.low, found.high) == (pytest.approx(math.e), None, None)


def test_the_distance_to_human_text_is_the_difference() -> None:
    short, long = (measure_all([Cell(0, (sample([1] * length),), 1.0)], 0) for length in (3, 8))
    apart = distances(short, long)
    assert apart["length"] == 5
    assert apart["judge_perplexity"] is None
