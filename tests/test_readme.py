"""Every command that the README shows runs, from the README's own place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.driving import call
from support.systems import needs_unix

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SHOWN = [line[2:].partition(" #")[0].strip() for line in README.splitlines() if line.startswith("$ ")]
COMMANDS = [line for line in SHOWN if line.startswith("genlm ") or "| genlm " in line]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, for some read what the one before has written."""
    return Path(shutil.copytree(ROOT / "prompts", tmp_path_factory.mktemp("readme") / "prompts")).parent


@pytest.fixture
def beside_the_prompts(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@needs_unix("the commands are those of a POSIX shell")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_runs(line: str, beside_the_prompts: Path) -> None:
    shell = line.replace("genlm ", f"{sys.executable} -m genlm ")
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, check=False
    )
    # One of them shows what a mistake looks like.
    assert done.returncode == (2 if f"$ {line}\nerror: " in README else 0), done.stderr


def test_the_python_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out) > 50


def test_the_sample_prompts_are_of_use(beside_the_prompts: Path) -> None:
    lines = Path("prompts/openings.txt").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in Path("prompts/openings.jsonl").read_text("utf-8").splitlines()]
    for prompt in [*lines, *(row["prompt"] for row in rows)]:
        assert call("generate", prompt, "-m", "fable", "--max-new-tokens", "2", "--seed", "1").code == 0
