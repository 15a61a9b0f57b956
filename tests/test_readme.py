"""Every command that the README shows runs in the root of the repository."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from support.driving import Done, call

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SHOWN = [line[2:].partition(" #")[0].strip() for line in README.splitlines() if line.startswith("$ ")]
COMMANDS = [line for line in SHOWN if line.startswith("genlm ") or "| genlm " in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, because some read a file that an earlier one wrote."""
    return Path(shutil.copytree(ROOT / "prompts", tmp_path_factory.mktemp("readme") / "prompts")).parent


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_the_readme_shows_runs(line: str, in_folder: Path) -> None:
    done = run(line)
    # One of the commands shows an error on purpose.
    assert done.code == (2 if f"$ {line}\nerror: " in README else 0), done.err


def run(line: str) -> Done:
    """Run a shell line in this process: a command, with its input from a file, from echo or from nowhere."""
    echo, _, command = line.rpartition(" | ")
    _, *words = shlex.split(command)
    stdin = f"{shlex.split(echo)[1]}\n".encode() if echo else b""
    if "<" in words:
        words, (_, file) = words[:-2], words[-2:]
        stdin = Path(file).read_bytes()
    assert not {"|", "<", ">", "&&", ";"} & set(words), f"this test does not know how a shell would run {line}"
    return call(*words, stdin=stdin)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 50


def test_the_sample_prompts_can_be_continued(in_folder: Path) -> None:
    lines = Path("prompts/openings.txt").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in Path("prompts/openings.jsonl").read_text("utf-8").splitlines()]
    for prompt in [*lines, *(row["prompt"] for row in rows)]:
        assert call("generate", prompt, "-m", "fable", "--max-new-tokens", "2", "--seed", "1").code == 0
