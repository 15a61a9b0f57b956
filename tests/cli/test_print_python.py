"""`genlm generate --print-python`: the script generates the same tokens with transformers."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.driving import Done, call

from genlm.decoding.kinds import KINDS

PROMPT = 'The "king" had\n狐'


def printed(*arguments: str | Path) -> Done:
    return call("generate", "--print-python", *arguments)


def executed(script: str) -> tuple[dict[str, Any], str]:
    """Return the names that a script defines, and its output."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    names: dict[str, Any] = {}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(script, "<printed>", "exec"), names)
    return names, out.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        ["-s", "greedy"],
        ["-s", "greedy:repetition_penalty=1.4,no_repeat_ngram_size=2,min_new_tokens=5"],
        ["-s", "greedy:logit_bias=40:-6;50:3", "--bad-word", "e", "--bad-word", "a\nb"],
        ["-s", "beam:num_beams=3,bad_words=the|e|o,logit_bias=50:2.5", "-n", "2"],
        ["-s", "beam:num_beams=3", "-n", "2"],
        ["-s", "beam:num_beams=4,length_penalty=-1.0,early_stopping=true"],
        ["-s", "beam:num_beams=3,early_stopping=never,no_repeat_ngram_size=2", "-n", "3"],
    ],
)
def test_the_script_generates_the_same_tokens(tiny: Path, options: list[str]) -> None:
    shared = ["-m", str(tiny), "--device", "cpu", "--max-new-tokens", "12", *options, PROMPT]
    done = printed(*shared)
    assert (done.code, done.err) == (0, "")
    names, _ = executed(done.out)
    made = json.loads(call("generate", *shared, "--format", "json").out)
    length = len(made["prompt_token_ids"])
    assert names["prompt"].tolist() == [made["prompt_token_ids"]]
    for row, completion in zip(names["output"].tolist(), made["completions"], strict=True):
        new = row[length:]
        ids = completion["token_ids"]
        assert new[: len(ids)] == ids
        assert set(new[len(ids) :]) <= {names["ends"]}


def test_the_script_prints_the_same_text_up_to_a_stop_text(tiny: Path) -> None:
    shared = ["-m", str(tiny), "--device", "cpu", "-s", "greedy", "--max-new-tokens", "20", "Once"]
    whole = json.loads(call("generate", *shared, "--format", "json").out)["completions"][0]["text"]
    stop = whole[8:10]
    text = json.loads(call("generate", *shared, "--stop", stop, "--format", "json").out)["completions"][0]["text"]
    _, out = executed(printed(*shared, "--stop", stop).out)
    assert out == text + "\n"
    assert len(text) < len(whole)


@pytest.mark.parametrize("kind", ["sample", "top-k", "top-p", "min-p", "typical", "epsilon", "eta", "top-h"])
def test_a_script_that_samples_sets_every_truncation(tiny: Path, kind: str) -> None:
    done = printed("-m", tiny, "--device", "cpu", "-s", kind, "--seed", "3", "--max-new-tokens", "4", "Once")
    names, _ = executed(done.out)
    assert names["output"].shape[1] > names["prompt"].shape[1]
    for field in ["temperature", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"]:
        assert f"    {field}=" in done.out
    main = KINDS[kind].main
    assert not main or f"    {main}={KINDS[kind].fields[main].default}," in done.out


def test_an_empty_prompt_starts_from_the_start_token(tiny: Path) -> None:
    names, _ = executed(printed("-m", tiny, "-s", "greedy", "--max-new-tokens", "2", "").out)
    assert torch.equal(names["prompt"], torch.tensor([[names["tokenizer"].bos_token_id]]))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["-s", "mirostat"], "transformers has no strategy of the kind mirostat"),
        (["-s", "top-n-sigma"], "transformers has no strategy of the kind top-n-sigma"),
        (["-s", "sample:xtc_probability=0.5"], "transformers has no xtc_probability"),
        (["-s", "greedy:dry_multiplier=1"], "transformers has no dry_multiplier"),
        (["-s", "top-p:presence_penalty=0.5"], "transformers has no presence_penalty"),
        (["-s", "top-p:top_n_sigma=1"], "transformers has no top_n_sigma"),
        (["--dtype", "int8"], "transformers has no int8 like that of genlm"),
    ],
)
def test_a_strategy_that_transformers_lacks_is_refused(options: list[str], error: str) -> None:
    done = printed("-m", "gpt2", *options, "Once")
    assert (done.code, done.out, done.error()) == (2, "", error)


def test_a_field_without_effect_is_ignored() -> None:
    assert printed("-m", "gpt2", "-s", "sample:dry_base=3,xtc_threshold=0.3", "Once").code == 0


def test_a_hub_model_is_named_but_not_downloaded() -> None:
    done = printed("-m", "someone/some-model", "--revision", "v1", "Once")
    assert "from_pretrained('someone/some-model', revision='v1'" in done.out
    assert "from_pretrained('gpt2'" in printed("Once").out


def test_the_script_is_written_to_the_output_file(tmp_path: Path) -> None:
    path = tmp_path / "run.py"
    assert printed("-m", "gpt2", "Once", "-o", path).out == ""
    assert path.read_text() == printed("-m", "gpt2", "Once").out
