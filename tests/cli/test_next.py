"""`genlm next`."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.driving import as_json, call


def test_json_has_the_documented_keys(tiny: Path) -> None:
    found = as_json("next", "Once upon a", "-m", tiny, "--top", "3")
    assert found["prompt"] == "Once upon a"
    assert found["effective_choices"] == pytest.approx(math.exp(found["entropy"]))
    assert [candidate["rank"] for candidate in found["candidates"]] == [1, 2, 3]
    for candidate in found["candidates"]:
        assert {"rank", "id", "text", "probability", "logprob"} <= candidate.keys()
        assert candidate["probability"] == pytest.approx(math.exp(candidate["logprob"]))


def test_text_is_a_table_of_ten_candidates_with_bars() -> None:
    done = call("next", "Once upon a", "-m", "fable")
    header, *rows = done.out.splitlines()
    assert header.split() == ["rank", "token", "id", "probability", "log-prob"]
    assert rows[0].split()[:2] == ["1", "␣time"]
    assert [row.split()[0] for row in rows[:10]] == [str(rank) for rank in range(1, 11)]
    lengths = [row.count("█") for row in rows[:10]]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 20
    assert re.search(r"entropy \d\.\d{3} nats, perplexity [\d.]+ \(of 4,096 tokens\)", done.out)
    assert all(cell_len(line) <= 80 for line in done.out.splitlines())


def test_a_strategy_shows_which_tokens_it_rules_out(tiny: Path) -> None:
    done = call("next", "Once", "-m", tiny, "-s", "top-k:top_k=2")
    rows = done.out.splitlines()
    assert [" cut " in row for row in rows[1:11]] == [False] * 2 + [True] * 8
    assert "top-k:top_k=2 keeps 2 tokens with" in done.out
    assert "top-k:top_k=1 keeps 1 token with" in call("next", "Once", "-m", tiny, "-s", "top-k:top_k=1").out
    assert "it rules out 298 with" in done.out
    found = as_json("next", "Once", "-m", tiny, "-s", "top-k:top_k=2")
    assert found["strategy"]["spec"] == "top-k:top_k=2"
    assert (found["filtered"]["kept"], found["filtered"]["cut"]) == (2, 298)
    assert [candidate["filtered_probability"] > 0 for candidate in found["candidates"]][:3] == [True, True, False]


def test_a_preset_can_be_the_strategy(tiny: Path, tmp_path: Path) -> None:
    presets = tmp_path / "presets.toml"
    presets.write_text('[narrow]\nkind = "top-k"\ntop_k = 3\n')
    found = as_json("next", "Once", "-m", tiny, "-s", "@narrow", "--presets", presets)
    assert (found["strategy"]["name"], found["filtered"]["kept"]) == ("narrow", 3)


def test_candidates_are_separated_by_commas_and_compared(tiny: Path) -> None:
    found = as_json("next", "The", "-m", tiny, "--candidates", " fox, king", "--candidates", r" a\, b")
    assert {candidate["text"] for candidate in found["candidates"]} == {" fox", " king", " a, b"}
    for candidate in found["candidates"]:
        assert candidate["logprob"] == pytest.approx(sum(token["logprob"] for token in candidate["tokens"]))
    assert sum(candidate["share"] for candidate in found["candidates"]) == pytest.approx(1)
    shown = call("next", "The", "-m", tiny, "--candidates", " fox, king").out
    assert "␣fox" in shown
    assert "␣king" in shown


def test_a_candidate_that_is_ruled_out_is_null_in_json(tiny: Path) -> None:
    found = as_json("next", "The", "-m", tiny, "--candidates", " fox, king had", "-s", "top-k:top_k=1")
    assert [candidate["filtered_logprob"] for candidate in found["candidates"]] == [None, None]


def test_steps_set_the_depth_and_width_of_a_tree(tiny: Path) -> None:
    found = as_json("next", "Once", "-m", tiny, "--steps", "3")
    level, widths = found["candidates"], []
    while level:
        widths.append(len(level))
        level = [child for branch in level for child in branch["children"]]
    assert widths == [3, 3, 3]
    shown = call("next", "Once", "-m", tiny, "--steps", "2", "--branches", "5").out
    assert "10 tokens: the most likely continuations, 2 tokens long" in shown


def test_the_prompt_can_be_piped_or_read_from_a_file(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Once\n")
    found = [
        as_json("next", "Once", "-m", tiny),
        as_json("next", "-m", tiny, stdin=b"Once\n"),
        as_json("next", "--file", path, "-m", tiny),
    ]
    for record in found:
        del record["made_by"]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--top", "0"], "--top must be at least 1, not 0"),
        (["--steps", "-1"], "--steps must be at least 1, not -1"),
        (["--steps", "2", "--branches", "0"], "--branches must be at least 1, not 0"),
        (["--branches", "2"], "--branches needs --steps"),
        (["--steps", "2", "--top", "3"], "--top and --steps cannot be combined"),
        (["--candidates", "a,,b"], "a candidate must not be empty"),
        (["--presets", "x.toml"], "--presets is given, but no preset is used"),
        (["-s", "top-k:top_k=0"], "top_k must be a whole number at least 1, not 0"),
    ],
)
def test_wrong_options_are_errors(tiny: Path, options: list[str], error: str) -> None:
    done = call("next", "x", "-m", tiny, *options)
    assert (done.code, done.out, done.error()) == (2, "", error)
