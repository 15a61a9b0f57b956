"""The program as a whole: help, version, streams and exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from support.driving import call, genlm

import genlm as package
from genlm.cli import main
from genlm.cli.main import run


def test_without_arguments_the_help_is_shown() -> None:
    done = call()
    assert (done.code, done.err) == (0, "")
    assert "Usage: genlm [OPTIONS] COMMAND" in done.out
    assert done.out == call("--help").out


def test_version_is_shown() -> None:
    assert call("--version").out == f"genlm {package.__version__}\n"


def test_the_installed_script_and_python_m_run_the_same_function() -> None:
    (script,) = entry_points(group="console_scripts", name="genlm")
    assert script.load() is main
    done = genlm("nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such command 'nope'\nhint: genlm --help\n"


def test_main_exits_with_the_code_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Leave the test runner's signal handlers alone.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == run(["--version"]) == 0


@pytest.mark.parametrize("columns", [50, 80, 120])
def test_the_help_of_generate_shows_its_examples_line_by_line(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = call("generate", "--help")
    lines = done.out.splitlines()
    assert done.code == 0
    assert max(map(len, lines)) <= columns
    examples = [line for line in lines if "genlm generate " in line and "Usage" not in line]
    assert len(examples) == 4
    # A flag takes no value, so it shows no type.
    assert "<bool>" not in done.out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_a_full_disk_under_stdout_is_an_error(arguments: list[str]) -> None:
    done = shell(f'"$@" {" ".join(arguments)} >/dev/full')
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: No space left on device\n"


def test_a_closed_pipe_on_windows_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Windows reports an invalid argument."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

    run(["--version"])
    for platform, code, error in (("win32", 0, ""), ("linux", 1, "error: Invalid argument\n")):
        monkeypatch.setattr(sys, "platform", platform)
        with contextlib.redirect_stdout(Closed()):
            assert run(["--version"]) == code
        assert capsys.readouterr().err == error


def test_a_pipe_carries_utf8_and_plain_line_feeds_on_every_system() -> None:
    """Windows has a different default encoding and line break."""
    pipe = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(pipe, encoding="cp1252", newline="\r\n")) as stdout:
        assert run(["strategies"]) == 0
        stdout.flush()
        shown = pipe.getvalue()
    assert shown.decode() == call("strategies").out
    assert b"\r" not in shown


def test_a_closed_stdout_is_an_error() -> None:
    done = shell('"$@" --version >&-')
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: Bad file descriptor\n"


def shell(script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in which `"$@"` is the program."""
    if sys.platform == "win32":
        pytest.skip("no POSIX shell")
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "genlm"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
