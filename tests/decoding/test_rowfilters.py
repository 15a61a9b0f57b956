"""XTC and mirostat: cuts by chance and by a row's past, worked by hand and through the whole path."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import stock

import genlm
from genlm.decoding.request import random_streams
from genlm.decoding.rowfilters import ExcludeTopChoices, Mirostat, make_row_filters
from genlm.decoding.strategy import Strategy

PROMPT = "Once upon a time"
OUT = -math.inf
HALVES = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log()


class Numbers(Random):
    """A stream of given numbers."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(0)
        self.left = list(numbers)

    def random(self) -> float:
        return self.left.pop(0)


@dataclass(eq=False)
class OneRow:
    index: int
    random: Random


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


@pytest.mark.parametrize(
    ("threshold", "tokens"),
    [
        (0.4, [0, 1, 2, 3, 4]),
        (0.25, [1, 2, 3, 4]),
        (0.1, [2, 3, 4]),
        # Of the two least likely the first stays.
        (0.05, [3]),
    ],
)
def test_xtc_excludes_all_top_choices_but_the_least_likely(threshold: float, tokens: list[int]) -> None:
    xtc = ExcludeTopChoices(0.5, threshold)
    assert kept(xtc.narrow(HALVES, [OneRow(0, Numbers(0.49))])) == [tokens]
    assert kept(xtc.narrow(HALVES, [OneRow(0, Numbers(0.5))])) == [[0, 1, 2, 3, 4]]


def test_xtc_tosses_for_every_row_by_itself() -> None:
    rows = [OneRow(0, Numbers(0.9)), OneRow(1, Numbers(0.1))]
    assert kept(ExcludeTopChoices(0.3, 0.2).narrow(HALVES.expand(2, -1), rows)) == [[0, 1, 2, 3, 4], [1, 2, 3, 4]]


@given(st.lists(st.sampled_from([OUT, -2.0, 0.0, 0.5, 3.0]), min_size=1, max_size=9).filter(lambda row: max(row) > OUT))
def test_xtc_always_leaves_a_token_that_was_possible(row: list[float]) -> None:
    logits = torch.tensor([row])
    left = ExcludeTopChoices(1.0, 0.01).narrow(logits, [OneRow(0, Random(0))])
    assert (left > OUT).any()
    assert ((left > OUT) <= (logits > OUT)).all()


def test_mirostat_by_hand() -> None:
    mirostat, row = Mirostat(tau=1.25, eta=0.5), OneRow(0, Random(0))
    # mu starts at 2.5 bits; the tokens have 1, 2, 3, 4 and 4.
    assert kept(mirostat.narrow(HALVES, [row])) == [[0, 1]]
    mirostat.note(HALVES, torch.tensor([1]), [row])
    # 2 bits are 0.75 too many: mu is 2.5 - 0.375.
    assert mirostat.mu[row] == pytest.approx(2.125)
    for _ in range(5):
        mirostat.note(HALVES, torch.tensor([1]), [row])
    # mu is 0.25, below the surprise of every token: the likeliest stays.
    assert mirostat.mu[row] == pytest.approx(0.25)
    assert kept(mirostat.narrow(HALVES, [row])) == [[0]]
    mirostat.note(HALVES, torch.tensor([0]), [row])
    assert mirostat.mu[row] == pytest.approx(0.375)


def test_mirostat_of_a_row_knows_nothing_of_the_others() -> None:
    mirostat = Mirostat(tau=1.0, eta=1.0)
    first, second = OneRow(0, Random(0)), OneRow(7, Random(0))
    mirostat.note(HALVES.expand(2, -1), torch.tensor([4, 0]), [first, second])
    assert [mirostat.mu[row] for row in (first, second)] == pytest.approx([-1.0, 2.0])
    assert kept(mirostat.narrow(HALVES.expand(2, -1), [second, first])) == [[0, 1], [0]]


@pytest.mark.parametrize("spec", ["greedy", "sample", "top-p:top_p=0.5,xtc_threshold=0.3"])
def test_other_strategies_have_no_row_filters_and_keep_their_random_streams(spec: str) -> None:
    assert make_row_filters(Strategy.parse(spec)) == []


def next_distribution(folder: Path, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return stock(folder)(torch.tensor([list(ids)])).logits[0, -1].double().softmax(-1)  # type: ignore[no-any-return]


def token_at(probabilities: torch.Tensor, uniform: float) -> int:
    return int((probabilities.cumsum(0) <= uniform * probabilities.sum()).sum())


def mirostat_by_the_paper(folder: Path, prompt_ids: tuple[int, ...], numbers: Random, tau: float, eta: float) -> Any:
    """Algorithm 2 of the paper, with nothing but its formulas; the least surprising token always stays."""
    mu, made = 2 * tau, list[int]()
    for _ in range(12):
        probabilities = next_distribution(folder, (*prompt_ids, *made))
        surprise = -probabilities.log2()
        allowed = surprise <= max(mu, float(surprise.min()))
        token = token_at(probabilities * allowed, numbers.random())
        mu -= eta * (float(surprise[token]) - tau)
        made.append(token)
    return tuple(made)


@pytest.mark.parametrize(("tau", "eta"), [(3.0, 0.1), (1.0, 1.0), (5.0, 0.3)])
def test_mirostat_through_the_whole_path_is_the_papers_algorithm(tiny: Path, tau: float, eta: float) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    made = lm.generate(
        PROMPT,
        strategy=f"mirostat:mirostat_tau={tau},mirostat_eta={eta}",
        max_new_tokens=12,
        num_return_sequences=4,
        seed=5,
    )
    stream = random_streams(5, made.prompt_token_ids)
    ran_to_the_end = [each for each in made.completions if each.finish_reason == "length"]
    assert ran_to_the_end
    for each in ran_to_the_end:
        assert each.token_ids == mirostat_by_the_paper(tiny, made.prompt_token_ids, stream(each.index), tau, eta)


def test_xtc_through_the_whole_path_has_the_distribution_of_its_definition(tiny: Path) -> None:
    lm, draws = genlm.load(str(tiny), device="cpu"), 4000
    strategy = "sample:xtc_probability=0.4,xtc_threshold=0.05,temperature=0.2"
    made = lm.generate(PROMPT, strategy=strategy, max_new_tokens=1, num_return_sequences=draws, seed=2)
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
