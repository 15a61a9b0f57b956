"""`genlm generate` under Ctrl-C and SIGTERM, and with closed or unusual streams."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.driving import generate, genlm, read_first, save_endless, start
from support.systems import needs_unix


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_endless(tmp_path_factory.mktemp("models") / "endless")


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C after the fourth event."""
    from genlm.tasks import generate

    decode = generate.decode

    def decode_some(*arguments: Any) -> Iterator[Any]:
        events = decode(*arguments)
        for _ in range(4):
            yield next(events)
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "decode", decode_some)


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_keeps_the_text_written_so_far(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    file.write_text("before")
    arguments = ("Once upon a", "-s", "greedy", "--max-new-tokens", "30")
    done = generate(tiny, *arguments)
    assert (done.code, done.err) == (130, "")
    assert done.out.startswith("Once upon a")
    assert done.out.endswith("\n")
    assert generate(tiny, *arguments, "-o", file).code == 130
    assert file.read_text() == done.out


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_writes_no_half_object(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("before")
    done = generate(tiny, "Once", "--seed", "5", "--format", "json", "-o", file)
    assert (done.code, done.out) == (130, "")
    assert done.err == "interrupted; --seed 5 generates the same text again\n"
    assert file.read_text() == "before"


@needs_unix("Ctrl-C cannot be sent to one process")
def test_text_is_streamed_and_ctrl_c_keeps_it(endless: Path) -> None:
    with start("generate", "-m", endless, "Once", "-q", "--max-new-tokens", "19000") as process:
        first = read_first(process, len("Once") + 20)
        assert process.poll() is None
        process.send_signal(2)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b""
    text = (first + rest).decode("utf-8")
    assert text.startswith("Once")
    assert text.endswith("\n")


@needs_unix("Ctrl-C cannot be sent to one process")
def test_the_seed_that_ctrl_c_shows_generates_the_same_text(endless: Path) -> None:
    arguments = ("generate", "-m", endless, "Once", "--max-new-tokens", "19000")
    with start(*arguments) as process:
        first = read_first(process, len("Once") + 40)
        process.send_signal(2)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (seed,) = re.findall(r"^interrupted; --seed (\d+) generates the same text again\n$", err.decode())
    text = (first + rest).removesuffix(b"\n")
    with start(*arguments, "-q", "--seed", seed) as process:
        again = read_first(process, len(text))
        process.send_signal(2)
        _, err = process.communicate(timeout=60)
    assert again == text
    assert err == b""


def test_a_closed_pipe_ends_the_run_silently(endless: Path) -> None:
    with start("generate", "-m", endless, "Once", "--max-new-tokens", "19000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert read_first(process, 4) == b"Once"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@needs_unix("no SIGTERM")
def test_sigterm_ends_the_run_silently(endless: Path) -> None:
    with start("generate", "-m", endless, "Once", "-q", "--max-new-tokens", "19000") as process:
        read_first(process, 10)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + 15, b"")


def test_pipes_carry_utf8_in_any_locale(tiny: Path) -> None:
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = genlm("generate", "-m", str(tiny), "-s", "greedy", "--max-new-tokens", "2", stdin="né狐🦊", env=env)
    assert done.returncode == 0
    assert done.stdout.startswith("né狐🦊")


@needs_unix("no POSIX shell")
def test_a_closed_stderr_does_not_change_stdout(tiny: Path) -> None:
    arguments = ["generate", "-m", tiny, "Once", "--temperature", "0", "--max-new-tokens", "3"]
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "genlm", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.decode() == generate(tiny, *arguments[3:]).out
