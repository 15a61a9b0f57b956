"""The metrics of a comparison, checked by hand and against other implementations."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from statistics import linear_regression

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from genlm.records.compare import METRICS, Amount, Cell, Estimate, Judgement, Sample
from genlm.tasks.metrics import (
    BOOTSTRAPS,
    Ratio,
    bootstrap,
    cut,
    distances,
    distinct,
    ends_in_loop,
    measure,
    repeated_share,
    self_bleu,
    speed,
    text_mean,
    token_mean,
    zipf,
)

TEXTS = st.lists(st.lists(st.integers(0, 6), max_size=14), min_size=1, max_size=6)


def value(ratio: Ratio, texts: int) -> float:
    """Return the ratio of texts that each count once."""
    return float(ratio(np.ones((1, texts)))[0])


def sample(tokens: Sequence[int], *, reason: str = "length", prompt: int | None = 0, **changes: object) -> Sample:
    """Return a completion; each of its tokens has a log-probability of -1 and an entropy of 2."""
    count = len(tokens)
    fields = {"logprobs": (-1.0,) * count, "entropies": (2.0,) * count, **changes}
    return Sample(prompt, 0, "text", tuple(tokens), reason, **fields)  # type: ignore[arg-type]


def cell(*texts: Sequence[int], prompt: int | None = 0, seconds: float | None = 1.0) -> Cell:
    return Cell(prompt, tuple(sample(text, prompt=prompt) for text in texts), seconds)


def metrics_of(*cells: Cell, seed: int = 0) -> dict[str, Estimate | None]:
    """Return the metrics of a row alone."""
    return measure([cells], None, seed).metrics[0]


def estimate(metrics: dict[str, Estimate | None], name: str) -> Estimate:
    found = metrics[name]
    assert found is not None
    return found


def drawn(seed: int, *, tokens: int = 50, vocab: int = 300) -> list[int]:
    """Return a text of random tokens, the low ones more frequent."""
    numbers = random.Random(seed)
    return [int(vocab * numbers.random() ** 3) for _ in range(tokens)]


def texts(prompts: int, each: int, *, vocab: int = 300, first: int = 0, tokens: int = 50) -> list[Cell]:
    """Return cells of random texts."""
    return [
        cell(
            *(drawn(first + 1000 * prompt + at, vocab=vocab, tokens=tokens) for at in range(each)),
            prompt=prompt,
            seconds=1.0 + 0.01 * prompt,
        )
        for prompt in range(prompts)
    ]


class TestAverages:
    def test_perplexity_is_exp_of_the_mean_surprise_over_all_tokens(self) -> None:
        half, eighth = math.log(1 / 2), math.log(1 / 8)
        # A text of three tokens weighs three times as much as one of one.
        row = Cell(0, (sample([1, 2, 3], logprobs=(half,) * 3), sample([1], logprobs=(eighth,))), 1.0)
        assert estimate(metrics_of(row), "perplexity").mean == pytest.approx((2 * 2 * 2 * 8) ** (1 / 4))
        assert estimate(metrics_of(row), "mean_logprob").mean == pytest.approx((3 * half + eighth) / 4)

    def test_a_token_without_a_logprob_does_not_count(self) -> None:
        row = Cell(0, (sample([1, 2], logprobs=(None, math.log(1 / 8))),), 1.0)
        assert estimate(metrics_of(row), "perplexity").mean == pytest.approx(8)

    def test_the_judge_counts_its_own_tokens(self) -> None:
        judged = Cell(0, (sample([1], judgement=Judgement(math.log(1 / 9), 2)), sample([1]), sample([1, 2])), 1.0)
        assert estimate(metrics_of(judged), "judge_perplexity").mean == pytest.approx(3)
        assert metrics_of(cell([1]))["judge_perplexity"] is None

    def test_the_length_excludes_the_end_token(self) -> None:
        found = metrics_of(Cell(0, (sample([1, 2, 3, 0], reason="eos"), sample([1, 2, 3, 4, 5])), 2.0))
        assert estimate(found, "length").mean == 4
        assert estimate(found, "ended").mean == 50
        assert estimate(found, "tokens_per_s") == Estimate(9 / 2, None, None), "both samples share one time"

    def test_speed_is_all_tokens_over_all_seconds(self) -> None:
        cells = [cell([1] * 10), cell([1] * 10, prompt=1, seconds=4.0)]
        assert value(speed(cells), 2) == 4
        assert math.isnan(value(speed([cell([1], prompt=None, seconds=None)]), 1))

    def test_a_text_without_a_value_does_not_count(self) -> None:
        assert value(text_mean([1.0, None, 4.0]), 3) == 2.5
        assert math.isnan(value(text_mean([None]), 1))
        assert value(token_mean([[1.0, None], [4.0]]), 2) == 2.5


class TestRepetition:
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
    def test_seq_rep_is_the_share_of_ngrams_that_occurred_before(self, text: list[int], expected: float | None) -> None:
        assert repeated_share(text, 4) == (expected if expected is None else pytest.approx(expected))

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
    def test_a_loop_is_two_tokens_or_more_three_times_at_the_end(self, text: list[int], expected: bool) -> None:
        assert ends_in_loop(text) is expected

    def test_only_the_first_200_tokens_are_searched_for_a_loop(self) -> None:
        assert ends_in_loop([*range(194), 1, 2, 1, 2, 1, 2])
        assert not ends_in_loop([*range(200), 1, 2, 1, 2, 1, 2])
        assert ends_in_loop([*range(194), 1, 2, 1, 2, 1, 2, *range(50)])

    @given(st.lists(st.integers(0, 2), max_size=12))
    def test_a_loop_is_what_a_regular_expression_finds(self, text: list[int]) -> None:
        spelled = "".join(map(str, text))
        assert ends_in_loop(text) == bool(re.search(r"(..+)\1\1$", spelled))


class TestDistinct:
    @pytest.mark.parametrize(
        ("given", "order", "expected"),
        [
            ([[1, 2, 1, 2]], 1, 2 / 4),
            ([[1, 2, 1, 2]], 2, 2 / 3),
            ([[1, 2, 3], [1, 2, 4]], 2, 3 / 4),
            ([[1, 2, 3], [1, 2, 3]], 3, 1 / 2),
            ([[1], []], 1, 1.0),
        ],
    )
    def test_distinct_n_is_the_share_of_distinct_ngrams_of_all_texts(
        self, given: list[list[int]], order: int, expected: float
    ) -> None:
        assert distinct(given, order) == pytest.approx(expected)

    def test_distinct_n_without_ngrams_is_undefined(self) -> None:
        assert math.isnan(distinct([[1], []], 2))


class TestZipf:
    def test_zipf_is_the_slope_of_a_power_law(self) -> None:
        tokens = [rank for rank in range(1, 41) for _ in range(round(10_000 / rank))]
        assert zipf([tokens]) == pytest.approx(1, abs=0.001)
        assert zipf([[1, 1, 1], [2, 2, 2]]) == pytest.approx(0)
        assert zipf([[1] * 8 + [2] * 2]) == pytest.approx(2)
        assert math.isnan(zipf([[5, 5]]))

    @given(st.lists(st.integers(1, 40), min_size=2, max_size=30))
    def test_zipf_equals_the_regression_of_the_standard_library(self, counts: list[int]) -> None:
        ranks = [math.log(rank) for rank in range(1, len(counts) + 1)]
        slope = linear_regression(ranks, [math.log(count) for count in sorted(counts, reverse=True)]).slope
        texts = [[token] * count for token, count in enumerate(counts)]
        assert zipf(texts) == pytest.approx(-slope, abs=1e-9)

    def test_only_the_5000_most_frequent_tokens_count(self) -> None:
        frequent = [token for token in range(5000) for _ in range(3)]
        assert zipf([[*frequent, *range(5000, 9000)]]) == pytest.approx(0, abs=1e-9)


class TestSelfBleu:
    def test_equal_texts_have_one_and_texts_without_common_tokens_zero(self) -> None:
        assert self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx([1, 1])
        assert self_bleu([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]) == [0, 0]

    def test_self_bleu_equals_a_calculation_by_hand(self) -> None:
        # 4 of 5 tokens are common, 3 of 4 pairs, 2 of 3 runs of three and 1 of 2 runs of four; both are as long.
        found = self_bleu([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]])[0]
        assert found == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4))
        # No pair is common, which counts as 0.1 of a pair. The other text is longer: brevity costs exp(1 - 3 / 2).
        short, long = (1 * 0.1) ** (1 / 2) * math.exp(1 - 3 / 2), (2 / 3 * 0.1 / 2) ** (1 / 2)
        assert self_bleu([[1, 2], [1, 3, 2]], (2,)) == [pytest.approx((short + long) / 2)]

    @given(TEXTS, st.sampled_from([4, 5]))
    def test_self_bleu_equals_sacrebleu_of_each_text_against_the_others(
        self, texts: list[list[int]], order: int
    ) -> None:
        settings = {"smooth_method": "floor", "smooth_value": 0.1, "max_ngram_order": order, "effective_order": True}
        bleu = BLEU(tokenize="none", **settings)
        spelled = [" ".join(map(str, text)) for text in texts if text]
        found = self_bleu(texts, (order,))[0]
        if len(spelled) < 2:
            assert math.isnan(found)
            return
        scores = [
            bleu.sentence_score(text, [other for at, other in enumerate(spelled) if at != place]).score / 100
            for place, text in enumerate(spelled)
        ]
        assert found == pytest.approx(sum(scores) / len(scores))


class TestEqualAmounts:
    NAMES = ("self_bleu_4", "self_bleu_5", "distinct_1", "distinct_2", "distinct_3", "zipf")

    def test_rows_of_equal_amounts_use_all_their_texts(self) -> None:
        rows = [texts(3, 2), texts(3, 2, first=50)]
        found = measure(rows, None, 0)
        assert set(found.amounts.values()) == {Amount(6, 300)}
        for row, metrics in zip(rows, found.metrics, strict=True):
            given = [sample.words for cell in row for sample in cell.samples]
            assert estimate(metrics, "distinct_2").mean == pytest.approx(distinct(given, 2))
            assert estimate(metrics, "self_bleu_4").mean == pytest.approx(self_bleu(given)[0])
            assert estimate(metrics, "zipf").mean == pytest.approx(zipf(given))

    def test_more_texts_of_the_same_kind_change_no_metric_beyond_chance(self) -> None:
        few, many = texts(6, 1, vocab=60), texts(6, 8, vocab=60, first=100)
        found = measure([few, many], None, 0)
        assert set(found.amounts.values()) == {Amount(6, 300)}
        for name in self.NAMES:
            one, other = (estimate(metrics, name) for metrics in found.metrics)
            assert one.low is not None
            assert one.high is not None
            assert one.low <= other.mean <= one.high
        # On all of its texts, the larger row would look much less diverse.
        everything = [sample.words for cell in many for sample in cell.samples]
        low = estimate(found.metrics[0], "distinct_1").low
        assert low is not None
        assert distinct(everything, 1) < low

    def test_the_human_text_limits_the_amount_too(self) -> None:
        human = [cell(drawn(at + 7000), prompt=None, seconds=None) for at in range(4)]
        found = measure([texts(5, 1), texts(5, 4)], human, 0)
        assert set(found.amounts.values()) == {Amount(4, 200)}
        given = [sample.words for cell in human for sample in cell.samples]
        assert estimate(found.metrics[2], "distinct_1").mean == pytest.approx(distinct(given, 1))

    def test_human_continuations_of_every_prompt_are_compared_prompt_by_prompt(self) -> None:
        human = [cell(drawn(at + 7000), prompt=at % 3, seconds=None) for at in range(6)]
        found = measure([texts(3, 8), texts(3, 4)], human, 0)
        assert set(found.amounts.values()) == {Amount(6, 300)}

    def test_shorter_texts_make_the_others_shorter(self) -> None:
        found = measure([texts(4, 1, tokens=20), texts(4, 1)], None, 0)
        assert set(found.amounts.values()) == {Amount(4, 80)}
        given = [sample.words[:20] for cell in texts(4, 1) for sample in cell.samples]
        assert estimate(found.metrics[1], "distinct_1").mean == pytest.approx(distinct(given, 1))

    def test_a_row_of_one_text_has_no_self_bleu_and_does_not_limit_that_of_the_others(self) -> None:
        found = measure([texts(1, 1), texts(1, 8), texts(1, 4)], None, 0)
        assert found.metrics[0]["self_bleu_4"] is None
        assert found.amounts["self_bleu_4"] == Amount(4, 200)
        assert found.amounts["distinct_1"] == Amount(1, 50)

    def test_prompts_that_a_row_lacks_do_not_count(self) -> None:
        rows = [[*texts(2, 1), Cell(2, error="failed")], texts(3, 2)]
        assert measure(rows, None, 0).amounts["distinct_1"] == Amount(2, 100)

    def test_a_row_without_texts_does_not_limit_the_others(self) -> None:
        found = measure([[Cell(0, error="failed")], texts(1, 3)], None, 0)
        assert found.amounts["distinct_1"] == Amount(3, 150)
        assert found.metrics[0]["distinct_1"] is None

    @given(TEXTS, st.integers(0, 40))
    def test_cut_keeps_the_given_number_of_tokens_in_texts_as_equal_as_possible(
        self, texts: list[list[int]], tokens: int
    ) -> None:
        kept = cut(texts, tokens)
        assert sum(map(len, kept)) == min(tokens, sum(map(len, texts)))
        longest = max(map(len, kept))
        for before, after in zip(sorted(texts, key=len), kept, strict=True):
            assert after == before[: len(after)]
            assert len(after) >= min(len(before), longest - 1)


@pytest.mark.parametrize("tokens", [[], [5]], ids=["empty", "one token"])
@pytest.mark.parametrize("count", [1, 3])
def test_empty_and_one_token_completions_have_the_metrics_that_they_define(tokens: list[int], count: int) -> None:
    ended = tuple(sample([*tokens, 0], reason="eos") for _ in range(count))
    found = metrics_of(Cell(0, ended, 1.0))
    assert set(found) == set(METRICS)
    defined = {name for name, each in found.items() if each is not None}
    always = {"perplexity", "mean_logprob", "entropy", "repetition", "length", "ended", "tokens_per_s"}
    with_tokens = {"distinct_1"} | ({"self_bleu_4", "self_bleu_5"} if count > 1 else set())
    assert defined == always | (with_tokens if tokens else set())
    assert estimate(found, "repetition").mean == 0
    assert estimate(found, "length").mean == len(tokens)


def test_a_row_without_samples_has_no_metric() -> None:
    assert set(metrics_of(Cell(0, error="failed")).values()) == {None}


def test_only_the_chosen_metrics_are_computed() -> None:
    found = measure([texts(2, 2), texts(2, 1)], None, 0, ["zipf", "length"])
    assert [tuple(metrics) for metrics in found.metrics] == [("zipf", "length")] * 2
    assert set(found.amounts) == {"zipf"}


class TestIntervals:
    def test_the_interval_of_a_mean_is_the_usual_bootstrap_interval(self) -> None:
        numbers = random.Random(1).choices(range(100), k=40)
        found = text_mean([float(number) for number in numbers]).resampled(bootstrap([1] * 40, 7)).estimate
        drawn = np.random.default_rng(8).choice(numbers, size=(20_000, 40)).mean(axis=1)
        assert found is not None
        assert found.mean == pytest.approx(np.mean(numbers))
        assert (found.low, found.high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=1.5)

    def test_a_bootstrap_draws_prompts_and_then_their_samples(self) -> None:
        weights = bootstrap([3, 1, 2], 0)
        assert weights.shape == (BOOTSTRAPS, 6)
        assert (weights.sum(axis=1) >= 1).all()
        drawn = np.array([weights[:, :3].sum(axis=1) / 3, weights[:, 3], weights[:, 4:].sum(axis=1) / 2])
        assert (drawn == drawn.round()).all(), "a prompt brings as many samples as it has"
        assert (drawn.sum(axis=0) == 3).all(), "there are as many prompts in a resample as there were"
        assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.1)

    @pytest.mark.parametrize("prompts", [30, 1], ids=["over prompts", "over the texts of one prompt"])
    def test_an_interval_of_diversity_is_as_wide_as_the_metric_varies(self, prompts: int) -> None:
        """The interval is about as wide as the spread of the metric over many other sets from the same source."""
        each = 30 // prompts
        found = metrics_of(*texts(prompts, each, vocab=2000))
        for name in ("distinct_1", "self_bleu_4", "zipf"):
            others = []
            for repeat in range(1, 60):
                row = texts(prompts, each, vocab=2000, first=100_000 * repeat)
                given = [sample.words for cell in row for sample in cell.samples]
                computed = {"distinct_1": distinct(given, 1), "self_bleu_4": self_bleu(given)[0], "zipf": zipf(given)}
                others.append(computed[name])
            interval = estimate(found, name)
            assert interval.low is not None
            assert interval.high is not None
            expected = np.subtract(*np.percentile(others, (97.5, 2.5)))
            assert interval.high - interval.low == pytest.approx(expected, rel=0.5)
            assert interval.low <= interval.mean <= interval.high

    def test_equal_seeds_give_equal_intervals_and_others_do_not(self) -> None:
        row = texts(3, 2)
        assert metrics_of(*row, seed=4) == metrics_of(*row, seed=4)
        one, other = metrics_of(*row, seed=4), metrics_of(*row, seed=5)
        assert all(one[name] != other[name] for name in ("self_bleu_4", "distinct_1"))

    def test_a_single_text_has_no_interval(self) -> None:
        found = metrics_of(cell([1, 2, 3]))
        assert estimate(found, "perplexity") == Estimate(pytest.approx(math.e), None, None)
        assert estimate(found, "distinct_1") == Estimate(1.0, None, None)


class TestBest:
    """The best row is clearly nearest to the human text, or clearly the fastest."""

    HUMAN = tuple(cell(drawn(at + 7000, vocab=300), prompt=None, seconds=None) for at in range(12))

    def test_a_row_that_is_clearly_nearest_is_best(self) -> None:
        rows = [texts(12, 1, vocab=300), texts(12, 1, vocab=20, first=50)]
        best = measure(rows, self.HUMAN, 0).best
        assert {"distinct_1", "distinct_2", "self_bleu_4"} <= set(best[0])
        assert best[1:] == [(), ()]

    def test_differences_by_chance_are_rarely_best(self) -> None:
        starred = []
        for number in range(10):
            rows = [texts(12, 1, first=10_000_000 * number), texts(12, 1, first=10_000_000 * number + 500)]
            found = measure(rows, self.HUMAN, number, TestEqualAmounts.NAMES)
            starred += [name for names in found.best for name in names]
        assert len(starred) <= 0.05 * 10 * len(TestEqualAmounts.NAMES)

    def test_without_human_text_only_speed_has_a_best_row(self) -> None:
        slow = [Cell(each.prompt, each.samples, 9.0) for each in texts(12, 1, vocab=20)]
        assert measure([texts(12, 1), slow], None, 0).best == [("tokens_per_s",), ()]

    def test_speed_is_not_compared_between_different_numbers_of_completions(self) -> None:
        slow = [Cell(each.prompt, each.samples, 9.0) for each in texts(12, 2)]
        assert measure([texts(12, 1), slow], None, 0).best == [(), ()]

    def test_rows_with_texts_of_other_prompts_are_not_compared(self) -> None:
        rows = [texts(12, 1), [*texts(11, 1, vocab=20), Cell(11, error="failed")]]
        assert measure(rows, self.HUMAN, 0).best == [(), (), ()]

    def test_repetition_is_compared_only_between_texts_of_equal_length(self) -> None:
        def looping(tokens: int) -> list[Cell]:
            return [cell([at, at + 1] * (tokens // 2), prompt=at) for at in range(12)]

        human = [cell(list(range(100 * at, 100 * at + 50)), prompt=None) for at in range(12)]
        plain = [cell(list(range(100 * at, 100 * at + 50)), prompt=at) for at in range(12)]
        names = {"repetition", "seq_rep_4"}
        assert names <= set(measure([plain, looping(50)], human, 0).best[0])
        assert not names & set(measure([plain, looping(40)], human, 0).best[0])

    def test_with_a_single_human_text_nothing_is_best(self) -> None:
        rows = [texts(12, 1), texts(12, 1, vocab=20)]
        assert measure(rows, self.HUMAN[:1], 0).best == [(), (), ()]


def test_the_distance_from_human_text_is_the_absolute_difference() -> None:
    short, long = (metrics_of(cell([1] * length)) for length in (3, 8))
    apart = distances(short, long)
    assert apart["length"] == 5
    assert apart["judge_perplexity"] is None
