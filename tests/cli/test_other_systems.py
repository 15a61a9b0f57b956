"""The main commands in an imitation of Windows."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from support.driving import Done, call, wait_until
from support.gpt2 import save_gpt2

if sys.platform != "linux":
    pytest.skip("imitates Windows on Linux", allow_module_level=True)

from support.windows import PATIENCE_S, Command, results, start_as_on_windows

PROMPTS = [f"The fox met {number} 狐 — née “wolf”." for number in range(40)]
SETTINGS = ("-m", "model", "--seed", "3", "--batch-size", "2")
BATCH = ("batch", "prompts.txt", "-o", "out.jsonl", *SETTINGS)
TRAIN = ("train", "corpus.txt", "-o", "trained", "--n-layer", "1", "--n-embd", "16", "--n-positions", "16")
TRAIN = (*TRAIN, "--max-steps", "100", "--save-every", "2", "--device", "cpu", "--seed", "3")
COMMANDS = {
    "generate": ("generate", "The fox né", "-m", "model", "--seed", "3", "--max-new-tokens", "8", "-q"),
    "next": ("next", "The fox né", "-m", "model", "--format", "json", "-q"),
    "score": ("score", "The fox né 狐", "-m", "model", "--format", "json", "-q"),
    "save": ("generate", "The fox né", "-m", "model", "--seed", "3", "-o", "saved.json", "--format", "json", "-q"),
    "table": ("batch", "few.txt", "-o", "table.csv", *SETTINGS, "-q", "--overwrite"),
    "overwrite": ("batch", "few.txt", "-o", "again.jsonl", *SETTINGS, "-q", "--overwrite"),
}
FILES = {"save": "saved.json", "table": "table.csv", "overwrite": "again.jsonl"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a model and texts."""
    save_gpt2(tmp_path / "model", n_positions=512, eos_token_id=None, bos_token_id=None)
    for name, lines in {"prompts.txt": PROMPTS, "few.txt": PROMPTS[:5], "corpus.txt": PROMPTS * 6}.items():
        (tmp_path / name).write_bytes("".join(f"{line}\n" for line in lines).encode())
    (tmp_path / "again.jsonl").write_bytes(b"to be overwritten\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kill_a_batch(folder: Path) -> None:
    """Start a batch and kill it after some records."""
    out = folder / "out.jsonl"
    with start_as_on_windows(Command(BATCH), folder=folder) as process:
        try:
            wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") > 2, "records", patience_s=PATIENCE_S)
        finally:
            process.kill()
    assert out.read_bytes().count(b"\n") < len(PROMPTS)


def test_the_main_commands_do_the_same_as_on_linux(folder: Path) -> None:
    """This is a single test, because starting torch in another process takes most of its time."""
    kill_a_batch(folder)
    *done, resumed, interrupted, trained = results(
        start_as_on_windows(
            *(Command(arguments) for arguments in COMMANDS.values()),
            Command((*BATCH, "--resume")),
            Command(TRAIN, interrupted_by="trained/checkpoint.safetensors"),
            Command((*TRAIN, "--resume")),
            folder=folder,
        )
    )
    for name, result in zip(COMMANDS, done, strict=True):
        assert result.code == 0, result.err
        made = (folder / FILES[name]).read_bytes() if name in FILES else b""
        assert undated(result.out) == undated(call(*COMMANDS[name]).out), name
        if name in FILES:
            assert untimed(made) == untimed((folder / FILES[name]).read_bytes()), name
    check_batch(folder, resumed)
    check_training(folder / "trained", interrupted, trained)
    assert not [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]


def undated(text: str) -> str:
    """Return a text without its date."""
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "DATE", text)


def untimed(contents: bytes) -> Any:
    """Return a file's contents without its date and durations."""
    check_line_breaks(contents)
    contents = undated(contents.decode()).encode()
    assert "né".encode() in contents
    if not contents.startswith(b"{\n"):
        return contents
    return {name: value for name, value in json.loads(contents).items() if name != "timing"}


def check_line_breaks(contents: bytes) -> None:
    """Check that carriage returns occur only in quoted cells of CSV, which are completions."""
    is_json = contents.startswith(b"{")
    # Python 3.10 reads no CSV that contains NUL.
    text = contents.decode().replace("\0", "?")
    cells = [] if is_json else chain(*csv.reader(io.StringIO(text, newline="")))
    assert contents.count(b"\r") == sum(cell.count("\r") for cell in cells)


def check_batch(folder: Path, resumed: Done) -> None:
    assert resumed.code == 0, resumed.err
    check_line_breaks((folder / "out.jsonl").read_bytes())
    assert "40 of 40 prompts are in out.jsonl" in resumed.err
    records = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    assert [record["prompt"] for record in records] == PROMPTS


def check_training(out: Path, interrupted: Done, trained: Done) -> None:
    assert interrupted.code == 130, interrupted.err
    assert "--resume" in interrupted.err
    assert trained.code == 0, trained.err
    for file in ("log.jsonl", "training.json", "config.json", "README.md"):
        assert b"\r" not in (out / file).read_bytes()
    assert json.loads((out / "log.jsonl").read_bytes().splitlines()[-1])["step"] == 100
