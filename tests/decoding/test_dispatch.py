"""Which loop runs a request, and one prefill for several strategies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.models import load, save_other
from support.networks import Recording

from genlm.decoding.completion import Completion
from genlm.decoding.dispatch import prefill_order, share_prefill
from genlm.decoding.strategy import Strategy
from genlm.model.load import Model
from genlm.tasks.generate import Limits, continue_prompt, result_of

SPECS = ("greedy", "beam:num_beams=3", "top-k", "top-p", "mirostat", "contrastive", "dola", "beam-sample:num_beams=2")
PROMPTS = ("Once upon a time", "The king")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if request.param == "gpt2":
        return load(tiny)
    return load(save_other(tmp_path_factory.mktemp("models") / "llama", "llama"))


def completions(model: Model, prompt: str, spec: str) -> list[Completion]:
    strategy = Strategy.parse(spec)
    beams = strategy.fields.get("num_beams")
    count = int(beams) if beams else 3 if strategy.samples else 1
    return list(result_of(continue_prompt(model, prompt, strategy, Limits(12, count), 5)).completions)


def sharing(model: Model) -> tuple[Model, Recording]:
    """Return a model that shares prefills, and a network that counts them."""
    recording = Recording(model.network)
    return replace(model, network=share_prefill(recording, 12)), recording  # type: ignore[arg-type]


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    """Compare completions up to the rounding of a prefill that returns hidden states."""
    assert [each.logprob for each in found] == pytest.approx([each.logprob for each in expected], rel=1e-4)
    assert [replace(each, logprob=0.0) for each in found] == [replace(each, logprob=0.0) for each in expected]


@pytest.mark.parametrize("order", [list, lambda specs: list(reversed(specs))], ids=["in order", "reversed"])
def test_every_kind_gives_the_same_result_after_any_other_kind(model: Model, order: Callable[..., list[str]]) -> None:
    shared, _ = sharing(model)
    for prompt in PROMPTS:
        for spec in order(SPECS):
            assert_same(completions(shared, prompt, spec), completions(model, prompt, spec))


def test_a_prompt_is_prefilled_once_for_all_strategies(model: Model) -> None:
    shared, recording = sharing(model)
    for prompt in PROMPTS:
        for spec in sorted(SPECS, key=lambda spec: prefill_order(Strategy.parse(spec))):
            completions(shared, prompt, spec)
    assert len(recording.prefills) == len(PROMPTS)


def test_a_prefill_serves_whatever_needs_no_more(model: Model) -> None:
    shared, recording = sharing(model)
    for room in (0, 12, 7):
        shared.network.prefill([[1, 2, 3]], room)
    assert len(recording.prefills) == 1
    shared.network.prefill([[1, 2, 3]], 13)
    assert len(recording.prefills) == 2, "more room than there is"
    shared.network.prefill_with_states([1, 2, 3], 13, [1])
    assert len(recording.prefills) == 3, "hidden states that were not kept"
    shared.network.prefill_with_states([1, 2, 3], 5, [0, 2])
    shared.network.prefill([[1, 2, 3]], 1)
    assert len(recording.prefills) == 3


def test_several_prompts_at_once_are_not_shared(model: Model) -> None:
    shared, recording = sharing(model)
    for _ in range(2):
        logits, _ = shared.network.prefill([[1, 2], [3, 4]], 1)
    assert logits.shape[0] == 2
    assert sum(map(len, recording.prefills)) == 4


def test_everything_else_is_the_networks_own(model: Model) -> None:
    shared, _ = sharing(model)
    assert shared.network.vocab_size == model.network.vocab_size
    assert shared.network.logits_of([[1, 2]], [0]).equal(model.network.logits_of([[1, 2]], [0]))
