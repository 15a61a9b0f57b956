"""One prefill of a prompt for several strategies: each gives what it gives by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.counting import Counting
from support.models import load, save_other

from genlm.decoding.completion import Completion
from genlm.decoding.prefilled import sharing_prefill, watching_first
from genlm.decoding.strategy import Strategy
from genlm.model.load import Model
from genlm.tasks.generate import Generating, Limits

SPECS = ("greedy", "beam:num_beams=3", "top-k", "top-p", "mirostat", "contrastive", "dola", "beam-sample:num_beams=2")
PROMPTS = ("Once upon a time", "The king")


@pytest.fixture(scope="module", params=["lean", "stock"])
def model(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if request.param == "lean":
        return load(tiny)
    return load(save_other(tmp_path_factory.mktemp("models") / "llama", "llama"))


def completions(model: Model, prompt: str, spec: str) -> list[Completion]:
    strategy = Strategy.parse(spec)
    beams = strategy.fields.get("num_beams")
    count = int(beams) if beams else 3 if strategy.samples else 1
    generating = Generating(model, prompt, strategy, Limits(12, count), 5)
    for _ in generating:
        pass
    return list(generating.result.completions)


def sharing(model: Model) -> tuple[Model, Counting]:
    counting = Counting(model.network)
    return replace(model, network=sharing_prefill(counting, 12)), counting  # type: ignore[arg-type]


def same(found: list[Completion], alone: list[Completion]) -> bool:
    """Equal but for the rounding of a forward pass that kept hidden states."""
    assert [each.logprob for each in found] == pytest.approx([each.logprob for each in alone], rel=1e-4)
    return [replace(each, logprob=0.0) for each in found] == [replace(each, logprob=0.0) for each in alone]


@pytest.mark.parametrize("turn", [list, lambda specs: list(reversed(specs))], ids=["in order", "backwards"])
def test_every_kind_gives_what_it_gives_alone_whatever_ran_before(model: Model, turn: Callable[..., list[str]]) -> None:
    shared, _ = sharing(model)
    for prompt in PROMPTS:
        for spec in turn(SPECS):
            assert same(completions(shared, prompt, spec), completions(model, prompt, spec)), (prompt, spec)


def test_a_prompt_is_encoded_once_for_all_strategies(model: Model) -> None:
    shared, counting = sharing(model)
    for prompt in PROMPTS:
        for spec in sorted(SPECS, key=lambda spec: watching_first(Strategy.parse(spec))):
            completions(shared, prompt, spec)
    assert len(counting.prefills) == len(PROMPTS)


def test_a_prefill_serves_what_needs_no_more_of_it(model: Model) -> None:
    shared, counting = sharing(model)
    for room in (0, 12, 7):
        shared.network.prefill([[1, 2, 3]], room)
    assert len(counting.prefills) == 1
    shared.network.prefill([[1, 2, 3]], 13)
    assert len(counting.prefills) == 2, "more room than there is"
    shared.network.watch([1, 2, 3], 13, [1])
    assert len(counting.prefills) == 3, "hidden states that were not kept"
    shared.network.watch([1, 2, 3], 5, [0, 2])
    shared.network.prefill([[1, 2, 3]], 1)
    assert len(counting.prefills) == 3


def test_several_prompts_at_once_are_the_networks_own_matter(model: Model) -> None:
    shared, counting = sharing(model)
    for _ in range(2):
        logits, _ = shared.network.prefill([[1, 2], [3, 4]], 1)
    assert logits.shape[0] == 2
    assert len(counting.prefills) == 4


def test_all_else_is_the_networks_own(model: Model) -> None:
    shared, _ = sharing(model)
    assert shared.network.vocab_size == model.network.vocab_size
    assert shared.network.logits([1, 2]).equal(model.network.logits([1, 2]))
