"""An error is one line with an exit code and often a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.driving import PRESETS, call

import genlm
from genlm.cli.errors import HINTS, hint_of
from genlm.errors import GenlmError, InputError

PACKAGE = Path(genlm.__file__).parent

# Wrong usage.


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["nope"], "no such command 'nope'", "genlm --help"),
        (["tokenise", "x"], "no such command 'tokenise'. Did you mean 'tokenize'?", "genlm --help"),
        (["--nope"], "no option --nope", "genlm --help"),
        (["score", "--strid"], "no option --strid; did you mean --stride?", "genlm score --help"),
        (["generate", "x", "y"], "unexpected argument: y", "genlm generate --help"),
        (["generate", "x", "--top-k", "many"], "--top-k: 'many' is not a whole number", "genlm generate --help"),
        (["generate", "x", "--top-k", "1.5"], "--top-k: '1.5' is not a whole number", "genlm generate --help"),
        (["generate", "x", "--top-p", "half"], "--top-p: 'half' is not a number", "genlm generate --help"),
        (
            ["generate", "x", "--max-new-tokens", "abc"],
            "--max-new-tokens: 'abc' is not a whole number",
            "genlm generate --help",
        ),
        (
            ["generate", "x", "--seed", "9" * 5000],
            f"--seed: '{'9' * 40}…' has too many digits",
            "genlm generate --help",
        ),
        (["generate", "x", "--top-p", "\udcff"], "--top-p: '\\udcff' is not valid UTF-8", "genlm generate --help"),
        (["train", "x.txt", "--seed", "y" * 99], f"--seed: '{'y' * 40}…' is not a whole number", "genlm train --help"),
        (
            ["generate", "x", "-n", "1e3"],
            "--num-return-sequences: '1e3' is not a whole number",
            "genlm generate --help",
        ),
        (
            ["generate", "x", "--overflow", "cut"],
            "--overflow: 'cut' is not one of 'error', 'truncate-left'",
            "genlm generate --help",
        ),
        (["generate", "x", "--model"], "--model needs a value", "genlm generate --help"),
        (["generate", "x", "--quiet=yes"], "--quiet takes no value", "genlm generate --help"),
        (["batch", "x.txt"], "missing --output OUT", "genlm batch --help"),
        (["train", "x.txt"], "missing --output DIR", "genlm train --help"),
        (["strategies", "show"], "missing KIND", "genlm strategies show --help"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], error: str, hint: str) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert (done.error(), done.hint()) == (error, hint)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1, not 0"),
        (["--max-new-tokens", "-5"], "max_new_tokens must be at least 1, not -5"),
        (["-n", "0"], "num_return_sequences must be at least 1, not 0"),
        (["-n", "-1"], "num_return_sequences must be at least 1, not -1"),
        (["--stop", ""], "a stop text must not be empty"),
        (["--top-k", "0"], "top_k must be a whole number at least 1, not 0"),
        (["--top-p", "0"], "top_p must be a number greater than 0 and at most 1, not 0.0"),
        (["--top-p", "1.1"], "top_p must be a number greater than 0 and at most 1, not 1.1"),
        (["--temperature", "-1"], "temperature must be a number at least 0, not -1.0"),
        (["--temperature", "nan"], "temperature must be a number at least 0, not nan"),
        (["--temperature", "inf"], "temperature must be a number at least 0, not inf"),
        (["--repetition-penalty", "0"], "repetition_penalty must be a number greater than 0, not 0.0"),
        (["--num-beams", "1"], "num_beams must be a whole number at least 2, not 1"),
        (["--num-beams", "3", "-n", "4"], "num_return_sequences=4 is more than num_beams=3"),
        (["-s", "greedy", "-n", "2"], "greedy has one completion, not 2"),
        (["--temperature", "0", "-n", "2"], "greedy has one completion, not 2"),
        (["--num-beams", "3", "--top-k", "5"], "field 'top_k' does not apply to kind 'beam'"),
        (["-s", "greedy", "--top-p", "0.9"], "field 'top_p' does not apply to kind 'greedy'"),
        (["-s", "greedy", "--temperature", "0.9"], "field 'temperature' does not apply to kind 'greedy'"),
        (["-s", "top-p:top_p=0.5", "--top-p", "0.5"], "top_p is given twice: in the spec 'top-p:top_p=0.5' and"),
        (["-s", "@storyteller"], "-s @storyteller needs a file of presets"),
        (["-s", "@other", "--presets", str(PRESETS)], "no preset 'other' in"),
        (["--presets", str(PRESETS)], "--presets is given, but no preset is used"),
    ],
)
def test_invalid_requests(options: list[str], error: str) -> None:
    done = call("generate", "-m", "/no/model", "Once", *options)
    assert (done.code, done.out) == (2, "")
    assert error in done.error()


@pytest.mark.parametrize(
    ("spec", "error", "place"),
    [
        ("topp", "no strategy kind 'topp'", "topp"),
        ("", "a strategy starts with its kind", ""),
        ("top-p:top_q=1", "no field 'top_q' in any strategy", "top_q"),
        ("top-p:num_beams=4", "field 'num_beams' does not apply to kind 'top-p'", "num_beams"),
        ("top-p:top_p=0.9,top_k=x", "top_k must be a whole number", "x"),
        ("top-p:top_p=2", "top_p must be a number greater than 0 and at most 1", "2"),
        ("top-p:top_p", "expected FIELD=VALUE", "top_p"),
        ("top-k:top_k=5,top_k=6", "field 'top_k' is given twice", "top_k"),
        ("top-p:temperature=\x1b[31m", "temperature must be a number", "␛[31m"),
    ],
)
def test_the_wrong_part_of_a_spec_is_underlined(spec: str, error: str, place: str) -> None:
    done = call("generate", "-m", "/no/model", "Once", "-s", spec)
    assert done.code == 2
    assert done.error().startswith(error)
    shown, marks = done.err.splitlines()[1:3]
    start = marks.index("^")
    assert set(marks[start:]) == {"^"}
    assert shown[start : start + len(marks[start:])].strip() == place


# Failures.


def test_a_missing_model(tmp_path: Path) -> None:
    done = call("generate", "-m", tmp_path / "none", "Once")
    assert (done.code, done.out) == (1, "")
    assert done.error() == f"model {tmp_path / 'none'}: no such folder"
    assert done.hint() == "a local model is a folder in Hugging Face format"


def test_too_many_tokens_for_the_model(tiny: Path) -> None:
    done = call("generate", "-m", tiny, "Once", "--max-new-tokens", str(10**9))
    assert (done.code, done.out) == (1, "")
    assert done.error() == "1000000000 new tokens leave no room for a prompt in the model's context of 64"


@pytest.mark.parametrize("option", ["--model", "--output", "--presets"])
def test_control_characters_of_names_are_visible_on_one_line(option: str, tmp_path: Path) -> None:
    name = f"{tmp_path}/[bold]x[/bold]/\x1b]0;title\x07\nerror: made up/\u202e\x9b/x"
    done = call("generate", "Once", "-s", "@x", option, name)
    if option != "--presets":
        done = call("generate", "Once", option, name)
    assert done.code == 1
    assert "[bold]x[/bold]/␛]0;title␇ error: made up/<U+202E><U+009B>/x" in done.error()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (GenlmError("one\ntwo"), "one two"),
        (OSError(5, "Input/output error", "weights"), "weights: Input/output error"),
        (OSError(28, "No space left on device"), "cannot write standard output: No space left on device"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (KeyError("x\x1b"), "unexpected KeyError: 'x\\x1b'"),
        (RuntimeError("two\nlines"), "unexpected RuntimeError: two lines"),
    ],
)
def test_every_exception_is_shown_as_one_line(error: Exception, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(error, monkeypatch)
    done = call("generate", "Once")
    assert (done.code, done.out) == (1, "")
    assert done.error() == shown


def test_an_unexpected_error_says_how_to_see_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(KeyError("x"), monkeypatch)
    assert call("generate", "Once").hint() == "GENLM_DEBUG=1 shows the traceback; please report it"


@pytest.mark.parametrize("value", ["0", "", "1"])
def test_the_traceback_is_shown_on_request_only(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLM_DEBUG", value)
    done = call("generate", "-m", "/no/model", "Once")
    assert ("Traceback" in done.err) == (value == "1")
    assert "error: model /no/model: no such folder\n" in done.err
    assert done.code == 1


@pytest.mark.parametrize(("raised", "code"), [(BrokenPipeError(), 0), (KeyboardInterrupt(), 130)])
def test_a_closed_pipe_and_ctrl_c_show_no_error(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(raised, monkeypatch)
    done = call("generate", "Once")
    assert (done.code, done.out, done.err) == (code, "", "")


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise `error` when the model is loaded."""

    def fail(*arguments: Any, **options: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("genlm.cli.options.ModelOptions.load", fail)


# Hints.


def test_an_error_without_a_code_keeps_its_own_hint() -> None:
    assert hint_of(GenlmError("wrong")) is None
    assert hint_of(GenlmError("wrong", hint="do this")) == "do this"


def test_a_code_adds_the_option_that_helps() -> None:
    assert hint_of(InputError("too long", code="prompt-too-long")) == HINTS["prompt-too-long"]
    error = InputError("too long", hint="the last 9 tokens fit", code="prompt-too-long")
    assert hint_of(error) == f"the last 9 tokens fit; {HINTS['prompt-too-long']}"


def test_an_unknown_code_adds_nothing() -> None:
    assert hint_of(GenlmError("wrong", hint="do this", code="of another version")) == "do this"
