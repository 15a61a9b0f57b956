"""The prompt, from the command line or from standard input."""

from __future__ import annotations

import errno
import io
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from support.driving import piped, start
from support.systems import needs_unix

from genlm.errors import InputError, UsageError
from genlm.formats.texts import read_prompt


def test_an_argument_is_the_prompt_unchanged() -> None:
    with piped(b""):
        assert read_prompt(" Once \n") == " Once \n"
        assert read_prompt("") == ""


@pytest.mark.parametrize("argument", [None, "-"])
def test_piped_text_is_the_prompt_with_or_without_a_dash(argument: str | None) -> None:
    with piped("Es war einmal — 狐".encode()):
        assert read_prompt(argument) == "Es war einmal — 狐"


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        (b"Once\n", "Once"),
        (b"Once\r\n", "Once"),
        (b"Once\n\n", "Once\n"),
        (b"Once \n", "Once "),
        (b"Once\r", "Once\r"),
        (b"\n", ""),
        (b"", ""),
    ],
)
def test_one_line_break_at_the_end_is_dropped(written: bytes, prompt: str) -> None:
    with piped(written):
        assert read_prompt(None) == prompt


@needs_unix("a pipe does not tell whether it holds text")
def test_an_argument_and_piped_text_at_once_are_refused() -> None:
    with piped(b"there"), pytest.raises(UsageError, match="not both"):
        read_prompt("Once")


def test_an_argument_with_a_redirected_file_is_refused_unless_that_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("there")
    with file.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UsageError, match="not both"):
            read_prompt("Once")
    with open(os.devnull) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert read_prompt("Once") == "Once"


def test_an_argument_does_not_wait_for_an_open_pipe_without_text(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "w"):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert read_prompt("Once") == "Once"


def test_an_argument_wins_if_the_pipe_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows can check only sockets."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSOCK, "not a socket")

    monkeypatch.setattr(select, "select", refuse)
    with piped(b"there"):
        assert read_prompt("Once") == "Once"
        assert read_prompt(None) == "there"


def test_no_prompt_on_a_terminal_is_refused_and_a_dash_reads_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyboard(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Keyboard(io.BufferedReader(io.BytesIO(b"typed\n"))))
    with pytest.raises(UsageError, match="no prompt"):
        read_prompt(None)
    assert read_prompt("-") == "typed"


@pytest.mark.parametrize("argument", [None, "-"])
def test_a_closed_standard_input_is_an_error(argument: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="no prompt"):
        read_prompt(argument)
    assert read_prompt("Once") == "Once"


def test_bytes_that_are_not_utf8_are_refused_with_their_offset() -> None:
    with piped("né".encode() + b"\xff"), pytest.raises(InputError, match="standard input is not valid UTF-8 at byte 3"):
        read_prompt(None)
    with piped(b""), pytest.raises(InputError, match="the prompt is not valid UTF-8 at byte 3"):
        read_prompt("né\udcff")


@needs_unix("arguments are Unicode")
def test_an_argument_that_is_not_utf8_is_one_line_on_the_command_line() -> None:
    with start("generate", b"Once\xff") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert err == b"error: the prompt is not valid UTF-8 at byte 4\n"


@needs_unix("no POSIX shell")
def test_the_lines_of_a_shell_loop_are_not_taken_for_a_prompt() -> None:
    command = f'while read -r line; do "{sys.executable}" -m genlm generate "$line" || exit; done'
    done = subprocess.run(["sh", "-c", command], input=b"one\ntwo\n", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"hint: </dev/null makes standard input empty\n" in done.stderr
