"""Every command in the README runs."""

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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, because some read the output of earlier ones."""
    return Path(shutil.copytree(ROOT / "prompts", tmp_path_factory.mktemp("readme") / "prompts")).parent


@pytest.fixture
def beside_the_prompts(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_runs(line: str, beside_the_prompts: Path) -> None:
    done = run(line)
    # One of the commands shows what an error looks like.
    assert done.code == (2 if f"$ {line}\nerror: " in README else 0), done.err


def run(line: str) -> Done:
    """Run a line of shell in this process: a command, which may read a file or what echo prints."""
    echo, _, command = line.rpartition(" | ")
    _, *words = shlex.split(command)
    stdin = f"{shlex.split(echo)[1]}\n".encode() if echo else b""
    if "<" in words:
        words, (_, file) = words[:-2], words[-2:]
        stdin = Path(file).read_bytes()
    assert not {"|", "<", ">", "&&", ";"} & set(words), f"this test does not know how a shell would run {line}"
    return call(*words, stdin=stdin)


def test_the_python_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 50


def test_the_sample_prompts_fit_the_bundled_model(beside_the_prompts: Path) -> None:
    lines = Path("prompts/openings.txt").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in Path("prompts/openings.jsonl").read_text("utf-8").splitlines()]
    for prompt in [*lines, *(row["prompt"] for row in rows)]:
        assert call("generate", prompt, "-m", "fable", "--max-new-tokens", "2", "--seed", "1").code == 0
