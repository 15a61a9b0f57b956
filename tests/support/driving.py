"""Ways to run the command: in this process, in another process, and in a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar
from unittest import mock

import pytest

from support.gpt2 import save_gpt2

T = TypeVar("T")
PRESETS = Path(__file__).parents[2] / "prompts" / "strategies.toml"
# Long, because the machine may be busy. Only a failing test waits that long.
PATIENCE_S = 300.0


def wait_until(holds: Callable[[], T], what: str, *, patience_s: float = PATIENCE_S) -> T:
    """Wait until `holds` returns a true value, and return that."""
    deadline = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:g} s"
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Done:
    """A finished run of the command."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """Return the text of the only `error:` line."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")

    def hint(self) -> str:
        """Return the text of the only `hint:` line."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("hint: ")]
        return line.removeprefix("hint: ")


def as_json(*arguments: str | Path, stdin: bytes = b"") -> Any:
    """Run a command with --format json and return the object that it prints."""
    done = call(*arguments, "--format", "json", stdin=stdin)
    assert done.code == 0, done.err
    return json.loads(done.out, parse_constant=pytest.fail)


def generate(model: Path, *arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run `genlm generate` with a model."""
    return call("generate", "-m", model, *arguments, stdin=stdin)


def generate_json(model: Path, *arguments: str | Path, stdin: bytes = b"") -> dict[str, Any]:
    """Run `genlm generate --format json` with a model and return the object that it prints."""
    record = as_json("generate", "-m", model, *arguments, stdin=stdin)
    assert isinstance(record, dict)
    return record


class FakeTerminal(io.StringIO):
    """A StringIO that claims to be a terminal."""

    def isatty(self) -> bool:
        """True."""
        return True


@contextlib.contextmanager
def piped(data: bytes) -> Iterator[None]:
    """Make standard input a closed pipe with `data`, which must fit into the buffer of a pipe."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading, encoding="utf-8") as stdin, mock.patch.object(sys, "stdin", stdin):
        yield


def call(*arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run the command in this process, which is quick, without a terminal."""
    from genlm.cli.main import run

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2))
    with piped(stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    out.flush()
    err.flush()
    return Done(code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Shown:
    """A finished run in a terminal: its exit code, and its output to the terminal and to a pipe."""

    code: int
    shown: bytes
    piped: bytes


def call_in_terminal(*arguments: str | Path, pipe: bool = False, env: dict[str, str] | None = None) -> Shown:
    """Run the command in this process, in a terminal of 80 columns; with `pipe` its standard output is a pipe."""
    from genlm.cli.main import run

    screen, inside = pytest.importorskip("pty").openpty()
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")
    environment = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color", **(env or {})}
    with ThreadPoolExecutor(1) as executor:
        shown = executor.submit(lambda: b"".join(iter(partial(read_screen, screen), b"")))
        with (
            open(inside, encoding="utf-8") as stdin,
            open(os.dup(inside), "w", encoding="utf-8") as terminal,
            mock.patch.object(sys, "stdin", stdin),
            contextlib.redirect_stdout(output if pipe else terminal),
            contextlib.redirect_stderr(terminal),
            mock.patch.dict(os.environ, environment),
        ):
            code = run([str(argument) for argument in arguments])
        output.flush()
        try:
            return Shown(code, shown.result(PATIENCE_S), output.buffer.getvalue())  # type: ignore[attr-defined]
        finally:
            os.close(screen)


def read_screen(screen: int) -> bytes:
    """Read from a terminal. Return b"" if its other end is closed."""
    try:
        return os.read(screen, 65536)
    except OSError:  # how Linux reports the end
        return b""


def start(
    *arguments: str | bytes | Path,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    env: dict[str, str] | None = None,
    start_new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start the command in another process."""
    return subprocess.Popen(
        [sys.executable, "-m", "genlm", *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80", **(env or {})},
        # No read-ahead, which `communicate` would not see.
        bufsize=0,
        start_new_session=start_new_session,
    )


def read_first(process: subprocess.Popen[bytes], count: int) -> bytes:
    """Return the first `count` bytes of its output as soon as they are written."""
    assert process.stdout is not None
    data = b""
    while len(data) < count:
        more = process.stdout.read(count - len(data))
        assert more, f"ended after {data!r}"
        data += more
    return data


# Make standard input the controlling terminal, so that its keys send signals.
IN_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The command in its own terminal. `shown` is its output so far."""

    def __init__(self, *arguments: str | Path, columns: int = 80, env: dict[str, str] | None = None) -> None:
        fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
        self._screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", IN_TERMINAL, sys.executable, "-m", "genlm", *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            env={**environment, "TERM": "xterm-256color", **(env or {})},
        )
        os.close(inside)
        self.shown = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._screen)

    def wait_for(self, text: str) -> None:
        """Read until `text` is shown."""
        while text.encode() not in self.shown:
            assert self._read(), f"ended without {text!r}: {self.shown!r}"

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._screen, key)

    def end(self) -> int:
        """Read to the end. Return the exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        ready, _, _ = select.select([self._screen], [], [], deadline - time.monotonic())
        assert ready, f"nothing for {PATIENCE_S:g} s after {self.shown!r}"
        data = read_screen(self._screen)
        self.shown += data
        return bool(data)


def save_endless(folder: Path) -> Path:
    """Save a tiny GPT-2 that never ends a text, with a long context."""
    return save_gpt2(folder, n_positions=20_000, eos_token_id=None, bos_token_id=None)


def genlm(
    *arguments: str,
    stdin: str | bytes | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in another process; without `stdin`, standard input is empty."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [sys.executable, "-m", "genlm", *arguments],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        env={**os.environ, "COLUMNS": "80", **(env or {})},
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
