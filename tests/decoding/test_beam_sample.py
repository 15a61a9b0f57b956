"""Beam sampling: draws have the exact distribution, found by enumeration, and can be repeated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import save_gpt2
from support.reference import stock_logprob

import genlm
from genlm.decoding.beam import beam_search, draw_different
from genlm.decoding.completion import Completion
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError, UsageError

PROMPT = "The king had"
END = 3
# The probability of each of four tokens after each of them; the last one is an end token.
CHAIN = torch.tensor([[0.4, 0.3, 0.1, 0.2], [0.1, 0.2, 0.5, 0.2], [0.25, 0.05, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
START = 0
Beams = tuple[tuple[int, ...], ...]


class Chain:
    """A network whose prediction depends only on the last token."""

    vocab_size, context, layers, tied = 4, None, 1, True
    device = torch.device("cpu")

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[torch.Tensor, Chain]:
        return self.step(torch.tensor([prompt[-1] for prompt in prompts])), self

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        return CHAIN.log()[ids]

    def select(self, rows: torch.Tensor) -> Chain:
        return self

    def row_bytes(self, length: int) -> int:
        return 1


def searched(spec: str, new: int, seed: int, count: int = 1) -> list[Completion]:
    request = Request(
        (START,), Strategy.parse(spec), new, count, seed, frozenset({END}), (), lambda ids: "x" * len(ids)
    )
    network: Any = Chain()
    return [event for event in beam_search(network, request) if isinstance(event, Completion)]


def score(tokens: Sequence[int], temperature: float) -> float:
    return sum(math.log(CHAIN[a, b]) / temperature for a, b in zip((START, *tokens), tokens, strict=False))


def orders(weights: dict[Any, float], count: int) -> Iterator[tuple[float, tuple[Any, ...]]]:
    """Yield every way to draw `count` items without replacement, with its probability."""
    if not count or not weights:
        yield 1.0, ()
        return
    total = sum(weights.values())
    for first, weight in weights.items():
        rest = {key: each for key, each in weights.items() if key != first}
        for probability, others in orders(rest, count - 1):
            yield weight / total * probability, (first, *others)


def exact(new: int, beams: int, temperature: float) -> Counter[tuple[int, ...]]:
    """Return the probability of each best sequence, with early_stopping=true, by enumerating all cases."""
    found: Counter[tuple[int, ...]] = Counter()

    def go(live: Beams, ended: Beams, length: int, probability: float) -> None:
        weights = {(*b, t): math.exp(score((*b, t), temperature)) for b in live for t in range(4)}
        for chance, drawn in orders(weights, 2 * beams):
            onward = sorted((s for s in drawn if s[-1] != END), key=lambda s: -score(s, temperature))[:beams]
            finished = [s for s in drawn[:beams] if s[-1] == END or length == new]
            best = sorted((*ended, *finished), key=lambda s: -score(s, temperature) / len(s))[:beams]
            if length == new or len(best) == beams:
                found[best[0]] += probability * chance
            else:
                go(tuple(onward), tuple(best), length + 1, probability * chance)

    go(((),), (), 1, 1.0)
    return found


@pytest.mark.parametrize(("new", "temperature"), [(1, 1.0), (2, 0.5)])
def test_draws_have_the_exact_distribution(new: int, temperature: float) -> None:
    probabilities = exact(new, 2, temperature)
    assert sum(probabilities.values()) == pytest.approx(1.0)
    runs = 800
    spec = f"beam-sample:num_beams=2,early_stopping=true,temperature={temperature}"
    counts = Counter(searched(spec, new, seed)[0].token_ids for seed in range(runs))
    assert counts.keys() <= probabilities.keys()
    common = {key: each * runs for key, each in probabilities.items() if each * runs >= 5}
    assert len(common) >= 3
    statistic = sum((counts[key] - each) ** 2 / each for key, each in common.items())
    # Pearson's statistic exceeds this about once in a thousand times with so few degrees of freedom.
    assert statistic < len(common) + 3.1 * math.sqrt(2 * len(common)) + 4


def test_draws_without_replacement_worked_by_hand() -> None:
    scores = torch.tensor([1.0, 2.0, 1.0]).log()
    # 0.6 of 4 falls into the second; then 0.6 of 2 into the third; then the first is left.
    assert draw_different(scores, [0.6, 0.6, 0.6]).tolist() == [1, 2, 0]
    assert draw_different(scores, [0.1, 0.1]).tolist() == [0, 1]


def test_a_ruled_out_token_is_never_drawn_and_an_unlikely_one_only_when_nothing_else_is_left() -> None:
    scores = torch.tensor([-math.inf, 0.0, -1e30, -math.inf])
    assert draw_different(scores, [0.0, 0.999, 0.5, 0.5]).tolist() == [1, 2]
    assert draw_different(torch.full((3,), -math.inf), [0.5]).tolist() == []


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt2(tmp_path_factory.mktemp("drawn") / "ending", seed=2, eos_token_id=[5, 50, 150])


def generate(folder: Path, spec: str, count: int = 1, seed: int = 1, **options: Any) -> Any:
    lm = genlm.load(str(folder), device="cpu")
    options = {"max_new_tokens": 12} | options
    return lm.generate(PROMPT, strategy=spec, num_return_sequences=count, seed=seed, **options)


def summary(made: Any) -> list[Any]:
    return [(each.token_ids, each.text, each.finish_reason) for each in made.completions]


@pytest.mark.parametrize("fields", ["", ",length_penalty=0,early_stopping=never", ",repetition_penalty=1.3"])
def test_at_a_low_temperature_it_is_beam_search(ending: Path, fields: str) -> None:
    cold = generate(ending, f"beam-sample:num_beams=3,temperature=0.001{fields}", 3)
    beam = generate(ending, f"beam:num_beams=3{fields}", 3)
    assert summary(cold) == summary(beam)
    assert summary(generate(ending, f"beam-sample:num_beams=3{fields}", 3)) != summary(beam)


def test_the_seed_decides(ending: Path) -> None:
    made = [summary(generate(ending, "beam-sample", seed=seed)) for seed in (1, 1, 2, 3, 4)]
    assert made[0] == made[1]
    assert len({str(each) for each in made}) == 4


def test_the_best_does_not_depend_on_how_many_are_requested(ending: Path) -> None:
    four = summary(generate(ending, "beam-sample", 4))
    assert [summary(generate(ending, "beam-sample", count)) for count in (1, 2, 3)] == [four[:1], four[:2], four[:3]]
    assert len({str(each) for each in four}) == 4


def test_only_tokens_that_the_processors_keep_are_drawn(ending: Path) -> None:
    lm = genlm.load(str(ending), device="cpu")
    for seed in range(5):
        made = generate(ending, "beam-sample:top_k=2,temperature=5", 4, seed)
        for completion in made.completions:
            ids = [*made.prompt_token_ids, *completion.token_ids]
            logits = lm._model.network.logits_of([ids], [0])[len(made.prompt_token_ids) - 1 : -1]
            top = logits.topk(2).indices.tolist()
            assert all(token in two for token, two in zip(completion.token_ids, top, strict=True))


def test_the_logprob_is_the_models_own(ending: Path) -> None:
    made = generate(ending, "beam-sample:temperature=2,top_p=0.8,repetition_penalty=1.4", 4)
    for completion in made.completions:
        expected = stock_logprob(ending, made.prompt_token_ids, completion.token_ids)
        assert completion.logprob == pytest.approx(expected, abs=1e-4)


def test_the_result_carries_the_seed(ending: Path) -> None:
    assert generate(ending, "beam-sample", seed=77).seed == 77


def test_more_completions_than_beams_are_refused(ending: Path) -> None:
    with pytest.raises(UsageError, match="num_return_sequences=5 is more than num_beams=4"):
        generate(ending, "beam-sample", 5)


def test_too_few_sequences_are_an_error(ending: Path) -> None:
    with pytest.raises(ModelError, match="finds 1 different sequences here, not 2"):
        generate(ending, "beam-sample:top_k=1", 2, max_new_tokens=1)
