"""`--replay`: a saved result is generated again and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.driving import call

import genlm
from genlm.decoding.kinds import KINDS
from genlm.errors import InputError
from genlm.records.generation import Difference, Replay
from genlm.tasks.saved import read_result
from genlm.views.generation import as_json, replay_text


def save(tiny: Path, path: Path, spec: str = "top-p", **options: Any) -> dict[str, Any]:
    lm = genlm.load(str(tiny), device="cpu")
    text = as_json(lm.generate("Once upon a time", strategy=spec, max_new_tokens=12, seed=5, **options))
    path.write_text(text, encoding="utf-8")
    record: dict[str, Any] = json.loads(text)
    return record


def again(path: Path, format: str = "text") -> tuple[int, str]:
    done = call("generate", "--replay", path, "--format", format)
    return done.code, done.out


@pytest.fixture
def saved(tiny: Path, tmp_path: Path) -> Path:
    save(tiny, tmp_path / "result.json", num_return_sequences=3)
    return tmp_path / "result.json"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    edit(record)
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_of_any_kind_can_be_reproduced(tiny: Path, tmp_path: Path, kind: str) -> None:
    save(tiny, tmp_path / "result.json", kind, stop=["zzz", "qq"], trace=True)
    assert again(tmp_path / "result.json")[0] == 0


@pytest.mark.parametrize("options", [{"deterministic": True}, {"overflow": "truncate-left"}, {"stop": ["e"]}])
def test_the_file_has_every_setting(tiny: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    record = save(tiny, tmp_path / "result.json", "sample", num_return_sequences=3, **options)
    for key, value in options.items():
        assert record[key] == value
    assert record["num_return_sequences"] == 3
    code, out = again(tmp_path / "result.json")
    assert (code, out.split(",")[0]) == (0, "the same: 3 completions")


def test_the_report_can_be_json(saved: Path) -> None:
    code, out = again(saved, "json")
    assert (code, json.loads(out)) == (0, {"same": True, "difference": None})


def test_the_first_difference_is_reported(saved: Path) -> None:
    record = json.loads(saved.read_text(encoding="utf-8"))
    own = record["completions"][1]["token_ids"][4]
    change(saved, lambda record: record["completions"][1]["token_ids"].__setitem__(4, 70))
    change(saved, lambda record: record["completions"][2]["token_ids"].__setitem__(0, 71))
    code, out = again(saved)
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "differs: sample 2 at new token 5"
    assert [line[:7] for line in lines[1:]] == ["saved: ", "now:   "]
    assert [line.split()[-1] for line in lines[1:]] == ["70)", f"{own})"]
    code, out = again(saved, "json")
    difference = json.loads(out)["difference"]
    assert (code, difference["index"], difference["position"]) == (1, 1, 4)
    assert (difference["saved"]["id"], difference["now"]["id"]) == (70, own)


def test_a_longer_saved_completion_differs_where_the_new_one_ends(saved: Path) -> None:
    change(saved, lambda record: record["completions"][0]["token_ids"].append(70))
    code, out = again(saved)
    assert (code, out.splitlines()[0]) == (1, "differs: sample 1 at new token 13")
    assert out.splitlines()[2] == "now:   no more tokens"


def test_a_different_text_of_the_same_tokens_is_a_difference(saved: Path) -> None:
    change(saved, lambda record: record["completions"][0].update(text="other"))
    assert again(saved) == (1, "differs: sample 1 has the same tokens, and another text or end\n")


def test_another_seed_gives_another_result(saved: Path) -> None:
    change(saved, lambda record: record.update(seed=6))
    assert again(saved)[0] == 1


def test_a_replay_starts_from_the_prompts_tokens_not_its_text(saved: Path) -> None:
    change(saved, lambda record: record.update(prompt="something else"))
    assert again(saved)[0] == 0


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.pop("seed"), "not a saved result: seed is missing"),
        (lambda r: r["model"].pop("dtype"), "not a saved result: model.dtype is missing"),
        (lambda r: r.update(seed="7"), "not a saved result: seed: expected int, got str"),
        (lambda r: r.update(max_new_tokens=True), "max_new_tokens: expected int, got bool"),
        (lambda r: r.update(max_new_tokens=0), "max_new_tokens must be at least 1, not 0"),
        (
            lambda r: r["model"].update(device="tpu"),
            "cannot be run again: model.device: 'tpu' is not one of cpu, cuda, mps",
        ),
        (lambda r: r["strategy"].update(kind="best"), "no strategy kind 'best'"),
        (lambda r: r["strategy"]["fields"].update(top_p=2), "top_p must be a number greater than 0 and at most 1"),
        (lambda r: r.update(prompt_token_ids=[]), "prompt_token_ids: no token ids"),
        (lambda r: r.update(prompt_token_ids=[1, "a"]), "prompt_token_ids[1]: expected int, got str"),
        (lambda r: r.update(prompt_token_ids=[1, -1]), "prompt_token_ids: -1 is not a token id"),
        (lambda r: r.update(prompt_token_ids=[10**30]), f"prompt_token_ids: {10**30} is not a token id"),
        (lambda r: r["completions"][1]["token_ids"].append(-1), "completions[1].token_ids: -1 is not a token id"),
        (
            lambda r: r["completions"][0].update(token_ids=[2**32]),
            "completions[0].token_ids: 4294967296 is not a token id",
        ),
        (lambda r: r.update(made_by={"genlm": 1}), "made_by.genlm: expected str, got int"),
        (lambda r: r["completions"].pop(), "completions: 2, but num_return_sequences is 3"),
        (lambda r: r["completions"][0].pop("text"), "completions[0].text is missing"),
        (lambda r: r.update(overflow="cut"), "overflow: 'cut' is not one of error, truncate-left"),
    ],
)
def test_an_error_names_the_missing_or_wrong_value(
    saved: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    change(saved, edit)
    with pytest.raises(InputError, match=r"result\.json: (not a saved result|cannot be run again): ") as caught:
        read_result(saved)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not json", b"[1]", b"\xff\xfe", b"[" * 100_000, b"{}", b"3"])
def test_a_file_that_is_not_a_result_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    done = call("generate", "--replay", tmp_path / "bad.json")
    assert (done.code, done.out) == (1, "")
    assert "bad.json" in done.error()


@pytest.mark.parametrize("id", [-1, 10**30])
def test_a_number_that_is_not_a_token_id_is_one_error(saved: Path, id: int) -> None:
    change(saved, lambda record: record["completions"][2].update(token_ids=[id]))
    done = call("generate", "--replay", saved)
    assert (done.code, done.out) == (1, "")
    assert done.error() == f"{saved}: cannot be run again: completions[2].token_ids: {id} is not a token id"


def test_an_id_beyond_the_vocabulary_is_a_difference(saved: Path) -> None:
    change(saved, lambda record: record["completions"][0]["token_ids"].__setitem__(0, 2**32 - 1))
    assert again(saved)[0] == 1


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.json: No such file"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize(
    "edit", [lambda r: r.update(prompt_token_ids=[100_000]), lambda r: r.update(prompt_token_ids=[5] * 5000)]
)
def test_a_prompt_that_does_not_fit_the_model_is_an_error(
    saved: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(saved, edit)
    done = call("generate", "--replay", saved)
    assert done.code == 1
    assert "does not fit" in done.error()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--seed", "5"), "--seed"),
        (("-s", "greedy"), "--strategy"),
        (("-m", "fable"), "--model"),
        (("Once",), "PROMPT"),
        (("--html", "x.html"), "--html"),
        (("--max-new-tokens", "50"), "--max-new-tokens"),
        (("--no-echo",), "--echo"),
    ],
)
def test_options_that_the_result_fixes_are_refused(saved: Path, options: tuple[str, ...], named: str) -> None:
    done = call("generate", "--replay", saved, *options)
    assert done.code == 2
    assert done.error() == f"--replay and {named} cannot be combined"


def test_tokens_in_the_report_are_made_visible(saved: Path) -> None:
    result = read_result(saved)
    made = genlm.load(result.model.name, device="cpu").generate("Once", max_new_tokens=1)
    text = replay_text(Replay(made, Difference(0, 0, (3, "\x1b[5m\u202e"), None)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.endswith("now:   no more tokens\n")
