"""The Python interface."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import genlm
from genlm.api import LanguageModel
from genlm.errors import InputError, ModelError, SpecError, UsageError

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def lm(tiny: Path) -> LanguageModel:
    return genlm.load(str(tiny), device="cpu")


def test_importing_genlm_imports_neither_its_modules_nor_torch() -> None:
    code = "import sys, genlm; print(*sorted(name for name in sys.modules if name.startswith(('genlm', 'torch'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "genlm genlm.version"


def test_every_public_name_can_be_imported() -> None:
    assert {name for name in genlm.__all__ if getattr(genlm, name).__name__ != name} == set()
    assert set(genlm.__all__) <= set(dir(genlm))
    with pytest.raises(AttributeError, match="module 'genlm' has no attribute 'generate'"):
        genlm.generate  # type: ignore[attr-defined]  # noqa: B018


def test_the_example_of_the_docstring(lm: LanguageModel) -> None:
    made = lm.generate("Once upon a time", strategy="top-k:top_k=40", max_new_tokens=40, seed=7)
    assert made.strategy.fields["top_k"] == 40
    assert len(made.completions[0].token_ids) <= 40
    assert isinstance(made, genlm.Generation)


def test_a_strategy_can_be_given_as_a_spec(lm: LanguageModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "seed": 1}
    spec = lm.generate(PROMPT, strategy="top-k:top_k=4", **options)
    strategy = lm.generate(PROMPT, strategy=genlm.Strategy.of("top-k", {"top_k": 4}), **options)
    assert spec.completions == strategy.completions


def test_the_default_strategy_is_top_p(lm: LanguageModel) -> None:
    assert str(lm.generate(PROMPT, max_new_tokens=1).strategy) == "top-p:top_p=0.9"


def test_stop_can_be_one_text_or_several(lm: LanguageModel) -> None:
    options: dict[str, Any] = {"strategy": "greedy", "max_new_tokens": 20}
    text = lm.generate(PROMPT, **options).completions[0].text
    stop = text[3]
    one = lm.generate(PROMPT, stop=stop, **options).completions
    assert one[0].text == text[: text.index(stop)]
    assert one[0].finish_reason == "stop"
    assert lm.generate(PROMPT, stop=[stop, "never said"], **options).completions == one
    assert lm.generate(PROMPT, stop=("never said", stop), **options).completions == one


def test_stream_yields_the_text_of_generate(lm: LanguageModel) -> None:
    options: dict[str, Any] = {"num_return_sequences": 2, "max_new_tokens": 8, "seed": 1}
    events = list(lm.stream(PROMPT, **options))
    completions = [event for event in events if isinstance(event, genlm.Completion)]
    pieces = [event for event in events if isinstance(event, genlm.Piece)]
    assert len(pieces) + len(completions) == len(events)
    ordered = sorted(completions, key=lambda completion: completion.index)
    assert tuple(ordered) == lm.generate(PROMPT, **options).completions


def test_a_stream_can_be_abandoned(lm: LanguageModel) -> None:
    events = lm.stream(PROMPT, strategy="greedy", max_new_tokens=40)
    assert isinstance(next(events), genlm.Piece)
    del events
    assert lm.generate(PROMPT, strategy="greedy", max_new_tokens=3).completions


def test_invalid_arguments_are_refused_before_the_first_event(lm: LanguageModel) -> None:
    with pytest.raises(SpecError, match="'num_beams' does not apply to kind 'top-k'"):
        lm.stream(PROMPT, strategy="top-k:num_beams=2")
    with pytest.raises(UsageError, match="greedy has one completion, not 2"):
        lm.stream(PROMPT, strategy="greedy", num_return_sequences=2)
    with pytest.raises(UsageError, match="max_new_tokens must be at least 1"):
        lm.generate(PROMPT, max_new_tokens=0)
    with pytest.raises(InputError, match="beyond the model's context of 64"):
        lm.stream("fox " * 80)
    assert issubclass(SpecError, genlm.GenlmError)


def test_results_are_frozen_dataclasses(lm: LanguageModel) -> None:
    made = lm.generate(PROMPT, max_new_tokens=3, seed=1)
    assert dataclasses.asdict(made)["completions"][0]["index"] == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 2  # type: ignore[misc]


def test_load_takes_the_same_names_as_the_command_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLM_MODEL", str(tiny))
    assert genlm.load(device="cpu").info.name == str(tiny)
    with pytest.raises(ModelError, match="no such folder"):
        genlm.load("./absent")
    assert genlm.load("fable", device="cpu").info.source == "bundled"


def test_next_score_and_attention(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    found = lm.next("Once upon a", top=5, strategy="top-k:top_k=2")
    best = found.candidates[0]
    assert [candidate.filtered == 0 for candidate in found.candidates] == [False, False, True, True, True]
    scored = lm.score("Once upon a", bos=False)
    assert scored.tokens is not None
    assert tuple(token.id for token in scored.tokens) == found.prompt_token_ids
    assert lm.generate("Once upon a", strategy="greedy", max_new_tokens=1).completions[0].token_ids == (best.id,)
    (head,) = lm.attention("Once upon a", layer=1, head=0).heads
    assert len(head.weights) == len(found.prompt_token_ids)


def test_a_batch_has_the_completions_of_generate(lm: LanguageModel) -> None:
    prompts = ["fox", {"id": "w", "prompt": "The wolf", "strategy": "greedy", "tag": 1}, {"id": 3}]
    records = {record.id: record for record in lm.batch(prompts, max_new_tokens=6, seed=4, batch_size=2)}
    assert records.keys() == {"rows:1", "w", 3}
    for record, spec in ((records["rows:1"], "top-p"), (records["w"], "greedy")):
        alone = lm.generate(str(record.prompt), strategy=spec, max_new_tokens=6, seed=4)
        assert [replace(each, logprob=0.0) for each in record.completions] == [
            replace(each, logprob=0.0) for each in alone.completions
        ]
        assert record.completions[0].logprob == pytest.approx(alone.completions[0].logprob, abs=1e-3)
        assert (record.strategy, record.seed) == (alone.strategy.spec, alone.seed)
        assert record.model.name == alone.model.name
        assert record.error is None
    assert records["w"].columns == {"tag": 1}
    assert records[3].completions == ()
    assert str(records[3].error) == "rows, row 3: 'prompt' is missing"


def test_a_record_of_a_batch_can_be_written_and_read_again(lm: LanguageModel) -> None:
    for record in lm.batch(["fox", {"id": 3}], max_new_tokens=3, num_return_sequences=2, stop="q", seed=1):
        assert genlm.BatchRecord.from_line(record.to_line()) == record


def test_a_batch_reads_its_prompts_lazily(lm: LanguageModel) -> None:
    made = lm.batch(f"fox {number}" for number in itertools.count())
    assert [len(next(made).completions) for _ in range(3)] == [1, 1, 1]


def test_an_invalid_batch_is_refused_at_once(lm: LanguageModel) -> None:
    for wrong in ({"strategy": "nope"}, {"batch_size": 0}, {"max_new_tokens": 0}):
        with pytest.raises(UsageError):
            lm.batch(["fox"], **wrong)  # type: ignore[arg-type]
