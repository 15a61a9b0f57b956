"""`genlm batch` ended from outside its process: the next run continues it, and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.driving import PATIENCE_S, Terminal, genlm, wait_until
from support.driving import start as begin
from support.gpt2 import save_gpt2
from support.systems import needs_unix

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

pytestmark = needs_unix("no fork, no SIGKILL and no limit on the size of files")
PROMPTS = 60
OPTIONS = ("--seed", "7", "--max-new-tokens", "80", "--batch-size", "5")


def run_in_child(folder: Path, arguments: list[str], most_bytes: int | None, said: Connection) -> None:
    """Run the command in a child process with a limit on the size of files; its stderr is sent to `said`."""
    from genlm.cli.main import main

    os.chdir(folder)
    sys.stderr = os.fdopen(said.fileno(), "w", closefd=False)
    if most_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    main(arguments)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """A fork server that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "genlm.cli.batch", "genlm.model.gpt2", "genlm.decoding.scheduler"])
    return context


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny", n_positions=128, eos_token_id=list(range(0, 300, 40)))


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The texts of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    write_prompts(folder)
    done = genlm("batch", "in.jsonl", "-o", "out.jsonl", "-m", str(model), *OPTIONS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [[each["text"] for each in record["completions"]] for record in records(folder)]


def write_prompts(folder: Path) -> None:
    rows = ({"id": f"row {number}", "prompt": "fox " * (1 + number % 9) + str(number)} for number in range(PROMPTS))
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def records(folder: Path) -> list[dict[str, object]] | list[dict[str, list[dict[str, str]]]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@dataclass
class Child:
    """A run in a separate process."""

    process: ForkServerProcess
    stderr: Connection

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.end()

    def end(self) -> tuple[int | None, str]:
        """Wait for the process to end. Return its exit code and stderr."""
        self.process.join(PATIENCE_S)
        said = os.read(self.stderr.fileno(), 65536) if self.stderr.poll() else b""
        return self.process.exitcode, said.decode()


@pytest.fixture
def start(context: ForkServerContext, model: Path, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a run in a separate process."""
    write_prompts(tmp_path)
    children = []

    def start(*more: str, most_bytes: int | None = None) -> Child:
        arguments = ["batch", "in.jsonl", "-o", "out.jsonl", "-m", str(model), *OPTIONS, *more]
        reading, writing = context.Pipe(duplex=False)
        process = context.Process(target=run_in_child, args=(tmp_path, arguments, most_bytes, writing))
        process.start()
        writing.close()
        children.append(Child(process, reading))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.process.close()
        child.stderr.close()


def size(folder: Path) -> int:
    path = folder / "out.jsonl"
    return path.stat().st_size if path.exists() else 0


def wait_until_it_grows(folder: Path, child: Child) -> None:
    before, deadline = size(folder), time.monotonic() + PATIENCE_S
    while size(folder) <= before and child.process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_whole(folder: Path, expected: list[list[str]]) -> None:
    made = records(folder)
    assert [record["id"] for record in made] == [f"row {number}" for number in range(PROMPTS)]
    assert [[each["text"] for each in record["completions"]] for record in made] == expected


def test_kill_9_at_many_moments_loses_nothing(
    start: Callable[..., Child], tmp_path: Path, expected: list[list[str]]
) -> None:
    dice = random.Random(1)
    kills = 0
    while True:
        child = start("--resume")
        if kills < 8:
            wait_until_it_grows(tmp_path, child)
            time.sleep(dice.uniform(0, 0.02))
            child.process.kill()
        code, said = child.end()
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        # Whole records, and perhaps one torn one at the end.
        *lines, _ = (tmp_path / "out.jsonl").read_text().split("\n")
        assert all(json.loads(line)["error"] is None for line in lines)
        kills += 1
    assert kills >= 4
    assert_whole(tmp_path, expected)


def test_kill_9_while_the_records_are_sorted_loses_nothing(
    start: Callable[..., Child], tmp_path: Path, expected: list[list[str]]
) -> None:
    assert start().end()[0] == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    for delay in (0.0, 0.002, 0.02):
        (tmp_path / "out.jsonl").write_text("".join(reversed(lines)))
        child = start("--resume")
        deadline = time.monotonic() + PATIENCE_S
        while not list(tmp_path.glob(".genlm-*")) and child.process.is_alive():
            assert time.monotonic() < deadline
        time.sleep(delay)
        child.kill()
        assert sorted((tmp_path / "out.jsonl").read_text().splitlines(keepends=True)) == sorted(lines)
    assert list(tmp_path.glob(".genlm-*"))
    assert start("--resume").end()[0] == 0
    assert_whole(tmp_path, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_copy_of_standard_input_is_removed_by_the_next_run(model: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    outputs: list[Path] = []

    def start_reading() -> tuple[subprocess.Popen[bytes], Path]:
        """Start a run that waits for more prompts. Return it with its temporary folder."""
        before = set(temporary.glob("*/0"))
        output = tmp_path / f"{len(outputs)}.jsonl"
        outputs.append(output)
        options = ("--input-format", "txt", "-o", output, "-m", model)
        running = begin("batch", "-", *options, stdin=subprocess.PIPE, env={"TMPDIR": str(temporary)})
        assert running.stdin is not None
        running.stdin.write(b"fox\n")
        (copy,) = wait_until(lambda: set(temporary.glob("*/0")) - before, "a copy of standard input")
        return running, copy.parent

    killed, left = start_reading()
    killed.kill()
    killed.communicate()
    assert left.exists()
    alive, kept = start_reading()
    assert (left.exists(), kept.exists()) == (False, True)
    last, _ = start_reading()
    assert kept.exists()
    for running in (last, alive):
        running.communicate()
        assert running.returncode == 0
    assert list(temporary.iterdir()) == []
    assert [output.read_text().count("\n") for output in outputs[1:]] == [1, 1]


def test_a_run_that_hits_the_file_size_limit_says_so_and_can_be_resumed(
    start: Callable[..., Child], tmp_path: Path, expected: list[list[str]]
) -> None:
    for most in (1, 5000, 9001):
        code, said = start("--resume", most_bytes=most).end()
        assert code == 1
        assert "error: cannot write out.jsonl: File too large" in said
        assert "hint: free some disk space; --resume continues" in said
        assert size(tmp_path) <= most
        assert size(tmp_path) == 0 or (tmp_path / "out.jsonl").read_bytes().endswith(b"\n")
    assert start("--resume").end()[0] == 0
    assert_whole(tmp_path, expected)


def test_a_second_run_is_refused_and_a_killed_one_leaves_no_lock(start: Callable[..., Child], tmp_path: Path) -> None:
    first = start()
    wait_until_it_grows(tmp_path, first)
    os.kill(first.process.pid or 0, signal.SIGSTOP)
    code, said = start("--resume").end()
    assert code == 1
    assert "error: out.jsonl is being written by another run" in said
    first.kill()
    assert start("--resume").end()[0] == 0


def test_ctrl_c_in_a_terminal(model: Path, tmp_path: Path, expected: list[list[str]]) -> None:
    write_prompts(tmp_path)
    out = tmp_path / "out.jsonl"
    arguments = ("batch", tmp_path / "in.jsonl", "-o", out, "-m", model, *OPTIONS)
    with Terminal(*arguments) as terminal:
        terminal.wait_for("/60")
        while not size(tmp_path):
            time.sleep(0.001)
        terminal.press(b"\x03")
        assert terminal.end() == 130
    shown = terminal.shown.decode()
    assert "finishing the running work" in shown
    assert "--resume continues" in shown
    assert 0 < len(records(tmp_path)) < PROMPTS
    done = genlm(*map(str, arguments), "--resume")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path, expected)
