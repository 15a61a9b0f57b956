"""The strategy chosen by `-s` and the plain flags."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.driving import PRESETS, generate, generate_json

from genlm.decoding.strategy import Strategy


def test_the_default_is_top_p(tiny: Path) -> None:
    assert generate_json(tiny, "Once", "--max-new-tokens", "1")["strategy"] == {
        "name": "top-p:top_p=0.9",
        "kind": "top-p",
        "spec": "top-p:top_p=0.9",
        "fields": Strategy.parse("top-p:top_p=0.9").to_json()["fields"],
    }


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        (["--top-k", "5"], "top-k:top_k=5"),
        (["--top-p", "0.5"], "top-p:top_p=0.5"),
        (["--top-k", "5", "--top-p", "0.5"], "top-p:top_p=0.5,top_k=5"),
        (["--min-p", "0.1", "--top-k", "40"], "min-p:min_p=0.1,top_k=40"),
        (["--typical-p", "0.9"], "typical:typical_p=0.9"),
        (["--epsilon-cutoff", "0.001"], "epsilon:epsilon_cutoff=0.001"),
        (["--eta-cutoff", "0.001"], "eta:eta_cutoff=0.001"),
        (["--temperature", "0.7"], "top-p:top_p=0.9,temperature=0.7"),
        (["--num-beams", "3"], "beam:num_beams=3"),
        (["--length-penalty", "0.8"], "beam:num_beams=4,length_penalty=0.8"),
        (["--repetition-penalty", "1.3"], "top-p:top_p=0.9,repetition_penalty=1.3"),
        (["-s", "greedy", "--no-repeat-ngram-size", "2"], "greedy:no_repeat_ngram_size=2"),
        (["-s", "sample", "--temperature", "0.7"], "sample:temperature=0.7"),
        (["-s", "beam:num_beams=2,length_penalty=0.8"], "beam:num_beams=2,length_penalty=0.8"),
        (["-s", "top-p:top_p=0.8", "--top-k", "7"], "top-p:top_p=0.8,top_k=7"),
        (["--bad-word", "a, b", "--bad-word", "king"], "top-p:top_p=0.9,bad_words=a%2C b|king"),
        (["-s", "greedy:bad_words=fox", "--bad-word", "king|"], "greedy:bad_words=fox|king%7C"),
        (["--logit-bias", "9:1", "--logit-bias", "5:-2"], "top-p:top_p=0.9,logit_bias=5:-2.0;9:1.0"),
        (["-s", "beam:logit_bias=7:1", "--logit-bias", "5:-2"], "beam:num_beams=4,logit_bias=5:-2.0;7:1.0"),
        (["--top-k", "99999999999999999999"], "top-k:top_k=99999999999999999999"),
    ],
)
def test_specs_and_flags_set_the_kind_and_its_fields(tiny: Path, options: list[str], spec: str) -> None:
    assert generate_json(tiny, "Once", "--max-new-tokens", "1", *options)["strategy"]["spec"] == spec


def test_flags_change_a_preset(tiny: Path) -> None:
    shared = ("Once", "--max-new-tokens", "1", "--presets", PRESETS, "-s", "@storyteller")
    strategy = generate_json(tiny, *shared)["strategy"]
    assert (strategy["name"], strategy["spec"]) == ("storyteller", "top-p:top_p=0.92,temperature=0.8")
    assert generate_json(tiny, *shared, "--top-p", "0.5")["strategy"]["spec"] == "top-p:top_p=0.5,temperature=0.8"


@pytest.mark.parametrize(
    "options",
    [["--temperature", "0"], ["-s", "top-k:top_k=3,temperature=0"], ["--top-p", "0.5", "--temperature", "0"]],
)
def test_a_temperature_of_zero_is_greedy_with_a_notice(tiny: Path, options: list[str]) -> None:
    shared = ("Once", "--max-new-tokens", "8")
    done = generate(tiny, *shared, *options)
    assert done.out == generate(tiny, *shared, "-s", "greedy").out
    assert "temperature=0 means greedy" in done.err
    assert "temperature=0 means greedy" not in generate(tiny, *shared, *options, "--quiet").err


def test_greedy_by_name_shows_no_notice(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "presets.toml").write_text('[plain]\nkind = "greedy"\n')
    for options in [("-s", "greedy"), ("-s", "@plain", "--presets", tmp_path / "presets.toml")]:
        done = generate(tiny, "Once", "--max-new-tokens", "1", *options)
        assert done.code == 0
        assert "means greedy" not in done.err
