"""Prompt lookup: fewer forward passes, the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import genlm
from genlm.decoding.completion import Completion
from genlm.decoding.dispatch import decode
from genlm.decoding.lookup import NGRAM, Lookup, LookupCache
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.model.gpt2 import GPT2Cache
from genlm.model.load import Model


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return genlm.load(str(tiny))._model


def make_request(model: Model, prompt_ids: list[int], spec: str = "greedy", *, new: int = 40) -> Request:
    return Request(
        tuple(prompt_ids), Strategy.parse(spec), new, 1, 0, frozenset(), (), model.tokenizer.decode, least_rows=1
    )


def tokens(model: Model, request: Request) -> tuple[int, ...]:
    (done,) = [event for event in decode(model.network, request) if isinstance(event, Completion)]
    return done.token_ids


def count_passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the numbers of forward passes from now on: `step` with one token, `extend` with several."""
    passes = {"step": 0, "extend": 0}

    def count(name: str) -> None:
        original = getattr(GPT2Cache, name)

        def call(cache: GPT2Cache, ids: torch.Tensor) -> torch.Tensor:
            passes[name] += 1
            logits: torch.Tensor = original(cache, ids)
            return logits

        monkeypatch.setattr(GPT2Cache, name, call)

    for name in passes:
        count(name)
    return passes


def test_a_draft_is_what_followed_the_last_ngram() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 1, 2, 3])
    assert lookup.draft(2) == [4, 5]
    assert lookup.draft(9) == [4, 5, 1, 2, 3]


def test_the_latest_occurrence_counts() -> None:
    assert Lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1) == [5]


@pytest.mark.parametrize("ids", [[], [1], [1, 1], [1, 2, 3], [1, 2, 3, 4]])
def test_without_a_repetition_there_is_no_draft(ids: list[int]) -> None:
    assert Lookup(ids).draft(4) == []


@pytest.mark.parametrize("spec", ["greedy", "greedy:repetition_penalty=1.2", "greedy:no_repeat_ngram_size=4"])
@pytest.mark.parametrize("seed", range(12))
def test_the_tokens_are_those_of_plain_steps(model: Model, spec: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(5, 300, (4 + seed % 4,), generator=generator).tolist()
    request = make_request(model, period * 3, spec, new=30)
    assert tokens(model, request) == tokens(model, replace(request, speculate=False))


def test_a_text_that_repeats_itself_takes_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fable = genlm.load("fable")._model
    prompt = fable.tokenizer.encode("he ran" + " and ran" * 7 + " and")
    plain = tokens(fable, replace(make_request(fable, prompt), speculate=False))
    passes = count_passes(monkeypatch)
    assert tokens(fable, make_request(fable, prompt)) == plain
    assert sum(passes.values()) < len(plain) / 2


def test_drafts_never_exceed_the_context(model: Model) -> None:
    context = model.network.context
    assert context is not None
    prompt = [7, 8, 9, 10] * 3
    request = make_request(model, prompt, new=context - len(prompt))
    assert len(tokens(model, request)) == context - len(prompt)


def test_taking_rows_forgets_the_draft(model: Model) -> None:
    prompt = [7, 8, 9, 10] * 3
    _, cache = model.network.prefill([prompt], 20)
    assert isinstance(cache, GPT2Cache)
    speculating = LookupCache(cache, prompt)
    speculating.step(torch.tensor([7]))
    assert cache.longest > len(prompt) + 1
    taken = speculating.select(torch.tensor([0]))
    assert isinstance(taken, GPT2Cache)
    assert taken.longest == len(prompt) + 1


def test_it_pauses_after_wrong_drafts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache = model.network.prefill([[7, 8, 9]], 60)
    assert isinstance(cache, GPT2Cache)
    passes = count_passes(monkeypatch)
    speculating = LookupCache(cache, [7, 8, 9])
    # The same n-gram occurs again and again, each time followed by another token.
    for follower in range(100, 112):
        for token in (*range(7, 7 + NGRAM), follower):
            speculating.step(torch.tensor([token]))
    assert 1 <= passes["extend"] < 8
