"""Continuous batching: what shares steps is the same as alone, whatever comes, goes or fails beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import save_gpt2
from support.models import load, save_other

from genlm.decoding import continuous
from genlm.decoding.completion import Completion, Failed
from genlm.decoding.kinds import KINDS
from genlm.decoding.loops import SEARCHES, decode, decode_many
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError
from genlm.model.gpt2 import GPT2
from genlm.model.gpt2_cache import GPT2Cache
from genlm.model.load import Model

SPECS = [
    *KINDS,
    "top-p:presence_penalty=0.5,frequency_penalty=0.3,min_new_tokens=9",
    "sample:xtc_probability=0.5,xtc_threshold=0.05",
    "top-k:dry_multiplier=1,dry_allowed_length=1,repetition_penalty=1.3",
    "greedy:no_repeat_ngram_size=2",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny GPT-2 whose texts end at many lengths."""
    ends = list(range(0, 300, 11))
    return load(save_gpt2(tmp_path_factory.mktemp("models") / "ending", eos_token_id=ends, n_positions=96))


def prompt(number: int) -> tuple[int, ...]:
    """Prompts of 1 to 40 tokens, all different."""
    generator = torch.Generator().manual_seed(number)
    return tuple(torch.randint(5, 300, (1 + 7 * number % 40,), generator=generator).tolist())


def request(model: Model, number: int, spec: str = "top-p", **changes: Any) -> Request:
    asked = Request(
        prompt(number),
        Strategy.parse(spec),
        max_new_tokens=3 + 5 * number % 30,
        count=1,
        seed=number % 3,
        eos_ids=model.eos_ids,
        stop=(),
        decode=model.tokenizer.decode,
    )
    return replace(asked, **changes)


def alone(model: Model, asked: Request) -> list[Completion]:
    events = decode(model.network, asked)
    return sorted((event for event in events if isinstance(event, Completion)), key=lambda each: each.index)


def together(model: Model, asked: Iterable[Request], size: int | None = 4) -> dict[int, list[Completion] | Exception]:
    """What became of the requests, by their place."""
    made: dict[int, list[Completion] | Exception] = {}
    for key, event in decode_many(model.network, enumerate(asked), size):
        if isinstance(event, Completion):
            completions = made.setdefault(key, [])
            assert isinstance(completions, list)
            completions.append(event)
            completions.sort(key=lambda each: each.index)
        elif isinstance(event, Failed):
            made[key] = event.error
    return made


def assert_same(made: list[Completion] | Exception, expected: list[Completion]) -> None:
    assert isinstance(made, list), made
    assert [replace(each, logprob=0.0) for each in made] == [replace(each, logprob=0.0) for each in expected]
    assert [each.logprob for each in made] == pytest.approx([each.logprob for each in expected], abs=1e-3)


def assert_as_alone(model: Model, asked: Sequence[Request], size: int | None = 4) -> None:
    made = together(model, asked, size)
    assert made.keys() == set(range(len(asked)))
    for place, each in enumerate(asked):
        assert_same(made[place], alone(model, each))


@pytest.mark.parametrize("spec", SPECS)
def test_every_strategy_gives_in_a_batch_what_it_gives_alone(model: Model, spec: str) -> None:
    assert_as_alone(model, [request(model, number, spec) for number in range(11)])


@pytest.mark.parametrize("size", [1, 2, 3, 7, None])
def test_strategies_counts_stops_and_lengths_may_all_differ(model: Model, size: int | None) -> None:
    counts = {"greedy": 1, "contrastive": 1, "dola": 1}
    asked = [
        request(
            model, number, spec, count=counts.get(spec.partition(":")[0], 1 + number % 2), stop=("e", "wolf")[:stop]
        )
        for number, (spec, stop) in enumerate(zip(SPECS, [0, 1, 2] * len(SPECS), strict=False))
    ]
    assert_as_alone(model, asked, size)


def test_more_samples_of_a_prompt_than_places(model: Model) -> None:
    assert_as_alone(model, [request(model, 5, count=7), request(model, 6, count=1), request(model, 7, count=6)], 3)


def test_equal_requests_are_all_done(model: Model) -> None:
    assert_as_alone(model, [request(model, 3)] * 9)


def test_prompts_that_fill_the_context(model: Model) -> None:
    full = request(model, 1, "greedy", prompt_ids=tuple(range(5, 91)), max_new_tokens=10, eos_ids=frozenset())
    assert_as_alone(model, [request(model, 2), full, request(model, 8), full, request(model, 9)], 2)


def test_what_comes_in_many_windows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "WINDOW", 3)
    assert_as_alone(model, [request(model, number, SPECS[number % 9]) for number in range(17)], 3)


def test_requests_are_taken_a_window_at_a_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "WINDOW", 5)
    taken = 0

    def endless() -> Iterator[tuple[int, Request]]:
        nonlocal taken
        while True:
            yield taken, request(model, taken)
            taken += 1

    events = decode_many(model.network, endless(), 3)
    ended = 0
    while ended < 20:
        ended += isinstance(next(events)[1], Completion)
    assert taken <= 20 + 3 * 5


def rows_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each step from now on runs."""
    rows: list[int] = []
    step = GPT2Cache.step

    def noted(cache: GPT2Cache, ids: torch.Tensor) -> torch.Tensor:
        rows.append(len(ids))
        return step(cache, ids)

    monkeypatch.setattr(GPT2Cache, "step", noted)
    return rows


def test_a_place_is_given_to_the_next_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of_steps(monkeypatch)
    asked = [request(model, number, max_new_tokens=5, eos_ids=frozenset()) for number in range(12)]
    together(model, asked, 4)
    # A prompt gives the first of five tokens, so that each takes four steps; they begin in turn, three times.
    assert rows == [4] * 12


def test_no_token_is_computed_for_sequences_that_have_ended(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of_steps(monkeypatch)
    made = together(model, [request(model, number) for number in range(30)], 8)
    tokens = sum(len(done.token_ids) for each in made.values() if isinstance(each, list) for done in each)
    assert sum(rows) == tokens - 30


def test_prompts_of_like_length_are_encoded_together(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[int]] = []
    prefill = GPT2.prefill

    def noted(network: GPT2, prompts: Sequence[Sequence[int]], room: int) -> Any:
        groups.append([len(each) for each in prompts])
        return prefill(network, prompts, room)

    monkeypatch.setattr(GPT2, "prefill", noted)
    monkeypatch.setattr(continuous, "ENCODED_TOKENS", 100)
    together(model, [request(model, number) for number in range(40)])
    padded = sum(len(group) * max(group) for group in groups)
    assert padded <= 1.1 * sum(map(sum, groups))
    assert len(groups) < 15
    assert all(len(group) * max(group) <= 100 for group in groups)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_other_models_share_steps_too(family: str, tmp_path: Path) -> None:
    # Mistral sees four tokens back only.
    other = load(save_other(tmp_path / family, family, max_position_embeddings=96))
    assert_as_alone(other, [request(other, number, SPECS[number % 13]) for number in range(14)], 3)


def test_sixteen_bits_run_no_fewer_rows_than_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = load(save_gpt2(tmp_path / "half", n_positions=96), dtype="bfloat16")
    rows = rows_of_steps(monkeypatch)
    made = together(half, [request(half, number, least_rows=4) for number in range(6)], 6)
    assert all(isinstance(each, list) for each in made.values())
    assert min(rows) == 4
    assert max(rows) == 6


# What fails.


class Poisoned(GPT2):
    """A GPT-2 that fails wherever a token is near."""

    def __init__(self, healthy: GPT2, token: int, error: Exception | None, *, at: str) -> None:
        self.__dict__ = dict(healthy.__dict__)
        self.token, self.error, self.at = token, error, at

    def hidden(self, ids: torch.Tensor, positions: torch.Tensor, attend: Any) -> torch.Tensor:
        hidden = super().hidden(ids, positions, attend)
        is_prompt = ids.shape[1] > 1
        hit = (ids == self.token).any(-1)
        if hit.any() and is_prompt == (self.at == "prompt"):
            if self.error is not None:
                raise self.error
            hidden.view(*ids.shape, -1)[hit] = torch.nan
        return hidden


def poisoned(model: Model, token: int, error: Exception | None, *, at: str) -> Model:
    assert isinstance(model.network, GPT2)
    return replace(model, network=Poisoned(model.network, token, error, at=at))


@pytest.mark.parametrize(
    "error", [None, RuntimeError("the kernel fell over"), ModelError("no")], ids=["nan", "raw", "own"]
)
@pytest.mark.parametrize("at", ["prompt", "step"])
@pytest.mark.parametrize("count", [1, 7])
def test_what_one_prompt_makes_fail_leaves_the_others_as_they_are(
    model: Model, error: Exception | None, at: str, count: int
) -> None:
    asked = [request(model, number, count=count if number % 2 else 1) for number in range(12)]
    token = asked[7].prompt_ids[1] if at == "prompt" else alone(model, asked[7])[0].token_ids[1]
    expected = [alone(model, each) for each in asked]
    made = together(poisoned(model, token, error, at=at), asked)
    assert made.keys() == set(range(12))
    failed = sorted(place for place, each in made.items() if isinstance(each, Exception))
    met = [
        any(token in (each.prompt_ids if at == "prompt" else done.token_ids[:-1]) for done in expected[place])
        for place, each in enumerate(asked)
    ]
    assert failed == [place for place, is_met in enumerate(met) if is_met]
    assert 7 in failed
    assert len(failed) < 9
    for place in set(range(12)) - set(failed):
        assert_same(made[place], expected[place])


def test_a_search_that_fails_leaves_the_others_as_they_are(model: Model) -> None:
    asked = [request(model, number, spec) for number, spec in enumerate(["dola", "top-p", "beam", "beam"], 1)]
    token = asked[2].prompt_ids[0]
    made = together(poisoned(model, token, RuntimeError("no"), at="prompt"), asked)
    failed = {place for place, each in enumerate(asked) if token in each.prompt_ids}
    assert {place for place, each in made.items() if isinstance(each, Exception)} == failed
    assert 2 in failed
    for place in set(range(4)) - failed:
        assert_same(made[place], alone(model, asked[place]))


class Cramped(GPT2):
    """A GPT-2 on a machine whose memory holds `rows` sequences in a step, and `tokens` of prompts at once."""

    def __init__(self, healthy: GPT2, rows: int, tokens: int = 10**9) -> None:
        self.__dict__ = dict(healthy.__dict__)
        self.most_rows, self.most_tokens, self.refused = rows, tokens, 0

    def hidden(self, ids: torch.Tensor, positions: torch.Tensor, attend: Any) -> torch.Tensor:
        if (ids.shape[1] == 1 and len(ids) > self.most_rows) or ids.numel() > self.most_tokens:
            self.refused += 1
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        return super().hidden(ids, positions, attend)


@pytest.mark.parametrize(("rows", "tokens"), [(3, 10**9), (1, 10**9), (64, 60), (5, 45)])
def test_where_memory_runs_out_fewer_run_at_once_and_nothing_is_lost(model: Model, rows: int, tokens: int) -> None:
    assert isinstance(model.network, GPT2)
    asked = [request(model, number, SPECS[number % 9], count=1) for number in range(20)]
    asked = [each for each in asked if each.strategy.kind not in SEARCHES]
    cramped = Cramped(model.network, rows, tokens)
    made = together(replace(model, network=cramped), asked, 8)
    assert made.keys() == set(range(len(asked)))
    for place, each in enumerate(asked):
        assert_same(made[place], alone(model, each))
    assert 1 <= cramped.refused <= 6 if tokens == 10**9 else cramped.refused


def test_a_prompt_that_no_memory_holds_fails_by_itself(model: Model) -> None:
    assert isinstance(model.network, GPT2)
    asked = [request(model, number) for number in range(12)]
    made = together(replace(model, network=Cramped(model.network, 9, tokens=30)), asked)
    for place, each in enumerate(asked):
        if len(each.prompt_ids) > 30:
            assert isinstance(made[place], RuntimeError)
        else:
            assert_same(made[place], alone(model, each))
    assert any(isinstance(each, RuntimeError) for each in made.values())


def test_one_sequence_beyond_the_memory_ends(model: Model) -> None:
    assert isinstance(model.network, GPT2)
    made = together(replace(model, network=Cramped(model.network, 0)), [request(model, 3, eos_ids=frozenset())])
    assert isinstance(made[0], RuntimeError)


def test_a_number_that_is_none_in_a_cache_spoils_no_later_sequence(model: Model) -> None:
    assert isinstance(model.network, GPT2)
    _, cache = model.network.prefill([prompt(5)], 4)
    with torch.inference_mode():
        cache.keys.fill_(torch.nan)
        cache.values.fill_(torch.nan)
    _, fresh = model.network.prefill([prompt(1), prompt(2)], 4)
    cache.put(torch.tensor([0, 1]), fresh, torch.tensor([0, 1]), 4)
    assert len(prompt(1)) < len(prompt(2)) < len(prompt(5))
    assert cache.step(torch.tensor([9, 9])).isfinite().all()
