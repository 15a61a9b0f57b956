"""Mirostat: worked out by hand, and whole generations by the algorithm of the paper."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from support.logits import HALVES, Sampled, kept_tokens
from support.reference import next_distribution

import genlm
from genlm.decoding.kinds.mirostat import Mirostat
from genlm.decoding.request import random_streams

PROMPT = "Once upon a time"


def test_the_limit_follows_the_surprise_of_the_tokens() -> None:
    mirostat, sequence = Mirostat(mirostat_tau=1.25, mirostat_eta=0.5), Sampled(Random(0))
    # mu starts at 2.5 bits; the tokens have 1, 2, 3, 4 and 4.
    assert kept_tokens(mirostat.process(HALVES, [sequence])) == [[0, 1]]
    mirostat.observe(HALVES, torch.tensor([1]), [sequence])
    # 2 bits are 0.75 too many: mu is 2.5 - 0.375.
    assert mirostat.mu[sequence] == pytest.approx(2.125)
    for _ in range(5):
        mirostat.observe(HALVES, torch.tensor([1]), [sequence])
    # mu is 0.25, below the surprise of every token: the most likely one stays.
    assert mirostat.mu[sequence] == pytest.approx(0.25)
    assert kept_tokens(mirostat.process(HALVES, [sequence])) == [[0]]
    mirostat.observe(HALVES, torch.tensor([0]), [sequence])
    assert mirostat.mu[sequence] == pytest.approx(0.375)


def test_each_sequence_has_its_own_limit() -> None:
    mirostat = Mirostat(mirostat_tau=1.0, mirostat_eta=1.0)
    first, second = Sampled(Random(0)), Sampled(Random(0))
    mirostat.observe(HALVES.expand(2, -1), torch.tensor([4, 0]), [first, second])
    assert [mirostat.mu[each] for each in (first, second)] == pytest.approx([-1.0, 2.0])
    assert kept_tokens(mirostat.process(HALVES.expand(2, -1), [second, first])) == [[0, 1], [0]]


def token_at(probabilities: torch.Tensor, uniform: float) -> int:
    return int((probabilities.cumsum(0) <= uniform * probabilities.sum()).sum())


def by_the_paper(folder: Path, prompt_ids: tuple[int, ...], numbers: Random, tau: float, eta: float) -> tuple[int, ...]:
    """Algorithm 2 of the paper, from nothing but its formulas; the least surprising token always stays."""
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
def test_a_generation_follows_the_algorithm_of_the_paper(tiny: Path, tau: float, eta: float) -> None:
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
        assert each.token_ids == by_the_paper(tiny, made.prompt_token_ids, stream(each.index), tau, eta)
