"""`--engine transformers`: stock `generate` with every field pinned, as the reference and the fallback."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.driving import call
from support.gpt2 import edit_json
from support.models import save_three_words

import genlm
from genlm.decoding.completion import Piece
from genlm.decoding.kinds import KINDS
from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError, UsageError
from genlm.records.generation import Generation

PROMPT = "The king had"
STOCK_KINDS = [kind.name for kind in KINDS.values() if kind.in_transformers]
# All settings that generation_config.json could bring into a call.
ODD = {
    "do_sample": True,
    "num_beams": 3,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "length_penalty": -5.0,
    "early_stopping": True,
    "num_return_sequences": 2,
    "min_length": 60,
    "min_new_tokens": 60,
    "max_length": 5,
    "max_new_tokens": 2,
    "suppress_tokens": list(range(40, 200)),
    "bad_words_ids": [[7]],
    "forced_eos_token_id": 3,
    "guidance_scale": 4.0,
    "pad_token_id": 9,
    "use_cache": False,
}


@pytest.fixture(scope="module")
def both(tiny: Path) -> dict[str, genlm.LanguageModel]:
    return {engine: genlm.load(str(tiny), device="cpu", engine=engine) for engine in ("genlm", "transformers")}


def tokens(result: Generation) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in result.completions]


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("greedy", 1),
        ("greedy:repetition_penalty=1.4,no_repeat_ngram_size=2,min_new_tokens=6", 1),
        ("greedy:bad_words=the|e|o,logit_bias=40:-6;50:3", 1),
        ("beam:num_beams=3", 3),
        ("beam:num_beams=4,length_penalty=-1.0,early_stopping=true", 1),
        ("beam:num_beams=4,early_stopping=never,no_repeat_ngram_size=2", 2),
        ("beam:num_beams=3,bad_words=the|e|o,logit_bias=50:2.5", 2),
    ],
)
def test_without_sampling_both_engines_agree(both: dict[str, genlm.LanguageModel], spec: str, count: int) -> None:
    made = {
        name: lm.generate(PROMPT, strategy=spec, max_new_tokens=12, num_return_sequences=count)
        for name, lm in both.items()
    }
    ours, theirs = made["genlm"], made["transformers"]
    assert (ours.engine, theirs.engine) == ("genlm", "transformers")
    for mine, other in zip(ours.completions, theirs.completions, strict=True):
        assert (mine.token_ids, mine.text, mine.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("spec", ["greedy", "beam:num_beams=3", "greedy:no_repeat_ngram_size=3"])
def test_a_stop_text_ends_both_engines_alike(both: dict[str, genlm.LanguageModel], spec: str) -> None:
    whole = both["genlm"].generate(PROMPT, strategy=spec, max_new_tokens=16).completions[0].text
    stop = ("not there", whole[6:8])
    ours, theirs = (
        lm.generate(PROMPT, strategy=spec, max_new_tokens=16, stop=stop).completions[0] for lm in both.values()
    )
    assert ours.finish_reason == "stop"
    assert (ours.token_ids, ours.text, ours.finish_reason) == (theirs.token_ids, theirs.text, theirs.finish_reason)


@pytest.mark.parametrize("kind", STOCK_KINDS)
def test_generation_settings_of_the_model_are_ignored(
    copied: Path, both: dict[str, genlm.LanguageModel], kind: str
) -> None:
    (copied / "generation_config.json").write_text(json.dumps(ODD))
    odd = genlm.load(str(copied), device="cpu", engine="transformers")
    results = [
        lm.generate(PROMPT, strategy=kind, max_new_tokens=8, num_return_sequences=1, seed=4)
        for lm in (odd, both["transformers"])
    ]
    assert tokens(results[0]) == tokens(results[1])


def test_generation_settings_in_an_old_config_are_ignored(copied: Path, both: dict[str, genlm.LanguageModel]) -> None:
    (copied / "generation_config.json").unlink()
    edit_json(
        copied / "config.json", **{name: ODD[name] for name in ("do_sample", "top_k", "temperature", "num_beams")}
    )
    odd = genlm.load(str(copied), device="cpu", engine="transformers")
    same = {"strategy": "sample", "max_new_tokens": 8, "seed": 4}
    assert tokens(odd.generate(PROMPT, **same)) == tokens(both["transformers"].generate(PROMPT, **same))


def test_samples_have_the_distribution_of_the_strategy(both: dict[str, genlm.LanguageModel]) -> None:
    count = 2000
    theirs = both["transformers"].generate(
        PROMPT, strategy="top-k:top_k=5,temperature=1.5", max_new_tokens=1, num_return_sequences=count, seed=1
    )
    seen = Counter(completion.token_ids[0] for completion in theirs.completions)
    expected = both["genlm"].next(PROMPT, top=5, strategy="top-k:top_k=5,temperature=1.5").candidates
    assert set(seen) <= {candidate.id for candidate in expected}
    for candidate in expected:
        assert candidate.filtered is not None
        assert seen[candidate.id] / count == pytest.approx(candidate.filtered, abs=0.04)


def test_the_seed_decides_and_torchs_own_random_state_is_unchanged(both: dict[str, genlm.LanguageModel]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made = [
        tokens(both["transformers"].generate(PROMPT, max_new_tokens=6, num_return_sequences=3, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(1), expected)
    assert made[0] == made[1] != made[2]


def test_rows_that_end_early_lose_their_padding(both: dict[str, genlm.LanguageModel]) -> None:
    # This bias makes the end likely but not certain.
    result = both["transformers"].generate(
        PROMPT, strategy="sample:logit_bias=0:4", max_new_tokens=20, num_return_sequences=12, seed=3
    )
    reasons = {completion.finish_reason for completion in result.completions}
    assert reasons == {"eos", "length"}
    for completion in result.completions:
        assert (completion.token_ids[-1] == 0) == (completion.finish_reason == "eos")
        assert 0 not in completion.token_ids[:-1]


def test_each_completion_is_streamed_as_one_piece(both: dict[str, genlm.LanguageModel]) -> None:
    events = list(both["transformers"].stream(PROMPT, max_new_tokens=4, num_return_sequences=2, seed=1))
    assert [type(event) is Piece for event in events] == [True, False, True, False]
    assert [event.index for event in events] == [0, 0, 1, 1]


def test_both_engines_give_the_same_trace(both: dict[str, genlm.LanguageModel]) -> None:
    ours, theirs = (
        lm.generate(PROMPT, strategy="greedy", max_new_tokens=5, trace=True).completions[0].trace
        for lm in both.values()
    )
    assert ours is not None
    assert theirs is not None
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.id, mine.rank, mine.candidates) == (other.id, other.rank, other.candidates)
        assert mine.probability == pytest.approx(other.probability, abs=1e-5)


def test_ruling_out_every_token_is_an_error(tmp_path: Path) -> None:
    lm = genlm.load(str(save_three_words(tmp_path / "three")), device="cpu", engine="transformers")
    with pytest.raises(ModelError, match="every token is ruled out"):
        lm.generate("fox wolf", strategy="sample:no_repeat_ngram_size=1", max_new_tokens=4)


class TestCommand:
    def test_the_result_records_the_engine_and_can_be_replayed(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "result.json"
        shared = ["-m", tiny, "--engine", "transformers", "--seed", "3", "--max-new-tokens", "6", PROMPT]
        done = call("generate", *shared, "--format", "json", "-o", path)
        assert done.code == 0
        assert "  by transformers  top-p" in done.err
        assert json.loads(path.read_text())["engine"] == "transformers"
        again = call("generate", "--replay", path, "--format", "json")
        assert (again.code, json.loads(again.out)["same"]) == (0, True)
        edit_json(path, engine="genlm")
        assert call("generate", "--replay", path).code == 1

    def test_a_saved_result_without_an_engine_is_replayed_by_genlm(self, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "result.json"
        call("generate", "-m", tiny, "--seed", "3", "--max-new-tokens", "6", PROMPT, "--format", "json", "-o", path)
        edit_json(path, engine=None)
        assert call("generate", "--replay", path).code == 0
        edit_json(path, engine="other")
        assert "engine: 'other' is not one of genlm, transformers" in call("generate", "--replay", path).error()

    def test_the_printed_text_of_both_engines_is_equal(self, tiny: Path) -> None:
        shared = ["-m", tiny, "-s", "greedy", "--max-new-tokens", "6", PROMPT, "-q"]
        assert call("generate", "--engine", "transformers", *shared).out == call("generate", *shared).out

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["-s", "contrastive"], "transformers has no strategy of the kind contrastive"),
            (["-s", "dola"], "transformers has no strategy of the kind dola"),
            (["-s", "diverse-beam"], "transformers has no strategy of the kind diverse-beam"),
            (["-s", "mirostat"], "transformers has no strategy of the kind mirostat"),
            (["-s", "sample:xtc_probability=0.5"], "transformers has no xtc_probability"),
            (["--dtype", "int8"], "the engine transformers does not support int8"),
            (
                ["--deterministic"],
                "the engine transformers has no deterministic decoding:"
                " it draws all completions from one random stream",
            ),
        ],
    )
    def test_options_that_transformers_does_not_support_are_refused(
        self, tiny: Path, options: list[str], error: str
    ) -> None:
        done = call("generate", "-m", tiny, "--engine", "transformers", *options, PROMPT)
        assert (done.code, done.out, done.error()) == (2, "", error)
        if "-s" in options and ":" not in options[1]:
            assert done.hint().endswith(", ".join(STOCK_KINDS))

    def test_unsupported_kinds_are_refused_before_the_model_is_looked_up(self, tmp_path: Path) -> None:
        for kind in KINDS.keys() - set(STOCK_KINDS):
            done = call("generate", "-m", tmp_path / "nowhere", "--engine", "transformers", "-s", kind, PROMPT)
            assert done.error().startswith("transformers has no strategy")


def test_an_unknown_engine_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="no engine 'other'"):
        genlm.load(str(tiny), engine="other")  # type: ignore[arg-type]


def test_python_refuses_what_the_command_refuses(both: dict[str, genlm.LanguageModel]) -> None:
    with pytest.raises(UsageError, match="no strategy of the kind dola"):
        both["transformers"].generate(PROMPT, strategy=Strategy.parse("dola"))
