"""Prompt lookup: fewer forward passes, the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import genlm
from genlm.decoding.completion import Completion
from genlm.decoding.lookup import NGRAM, Lookup, LookupCache
from genlm.decoding.loops import decode
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.model.gpt2_cache import GPT2Cache
from genlm.model.load import Model


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return genlm.load(str(tiny))._model


def request(model: Model, prompt_ids: list[int], spec: str = "greedy", *, new: int = 40) -> Request:
    return Request(
        tuple(prompt_ids), Strategy.parse(spec), new, 1, 0, frozenset(), (), model.tokenizer.decode, least_rows=1
    )


def tokens(model: Model, asked: Request) -> tuple[int, ...]:
    (done,) = [event for event in decode(model.network, asked) if isinstance(event, Completion)]
    return done.token_ids


def test_a_draft_is_what_followed_the_last_ngram() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 1, 2, 3])
    assert lookup.draft(2) == [4, 5]
    assert lookup.draft(9) == [4, 5, 1, 2, 3]


def test_the_latest_place_counts() -> None:
    assert Lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1) == [5]


@pytest.mark.parametrize("ids", [[], [1], [1, 1], [1, 2, 3], [1, 2, 3, 4]])
def test_without_a_repetition_there_is_no_draft(ids: list[int]) -> None:
    assert Lookup(ids).draft(4) == []


@pytest.mark.parametrize("spec", ["greedy", "greedy:repetition_penalty=1.2", "greedy:no_repeat_ngram_size=4"])
@pytest.mark.parametrize("seed", range(12))
def test_the_tokens_are_those_of_plain_steps(model: Model, spec: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(5, 300, (4 + seed % 4,), generator=generator).tolist()
    asked = request(model, period * 3, spec, new=30)
    assert tokens(model, asked) == tokens(model, replace(asked, speculate=False))


def test_a_text_that_repeats_itself_takes_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fable = genlm.load("fable")._model
    prompt = fable.tokenizer.encode("he ran" + " and ran" * 7 + " and")
    passes = 0

    def counted(name: str) -> None:
        original = getattr(GPT2Cache, name)

        def call(self: GPT2Cache, ids: torch.Tensor) -> torch.Tensor:
            nonlocal passes
            passes += 1
            answer: torch.Tensor = original(self, ids)
            return answer

        monkeypatch.setattr(GPT2Cache, name, call)

    plain = tokens(fable, replace(request(fable, prompt), speculate=False))
    counted("step")
    counted("extend")
    assert tokens(fable, request(fable, prompt)) == plain
    assert passes < len(plain) / 2


def test_drafts_never_reach_beyond_the_room(model: Model) -> None:
    context = model.network.context
    assert context is not None
    prompt = [7, 8, 9, 10] * 3
    asked = request(model, prompt, new=context - len(prompt))
    assert len(tokens(model, asked)) == context - len(prompt)


def test_taking_rows_gives_back_what_was_drafted(model: Model) -> None:
    prompt = [7, 8, 9, 10] * 3
    _, cache = model.network.prefill([prompt], 20)
    assert isinstance(cache, GPT2Cache)
    looking = LookupCache(cache, prompt)
    looking.step(torch.tensor([7]))
    assert cache.longest > len(prompt) + 1
    taken = looking.take(torch.tensor([0]))
    assert isinstance(taken, GPT2Cache)
    assert taken.longest == len(prompt) + 1


def test_after_failed_drafts_it_rests(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache = model.network.prefill([[7, 8, 9]], 60)
    assert isinstance(cache, GPT2Cache)
    extended = []
    monkeypatch.setattr(
        GPT2Cache, "extend", lambda self, ids, real=GPT2Cache.extend: (extended.append(1), real(self, ids))[1]
    )
    looking = LookupCache(cache, [7, 8, 9])
    # Every n-gram comes again, and is followed by something else each time.
    for follower in range(100, 112):
        for token in (*range(7, 7 + NGRAM), follower):
            looking.step(torch.tensor([token]))
    assert 1 <= len(extended) < 8
