"""Fixtures for the tests of `genlm batch`, which run the command as a user does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.batch import rows, write_lines
from support.driving import Done, call
from support.gpt2 import save_gpt2

from genlm.api import LanguageModel
from genlm.model.fingerprint import fingerprinted
from genlm.model.load import Model, load_model
from genlm.model.source import find_model


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 whose texts end at many lengths."""
    ends = list(range(0, 300, 17))
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny", eos_token_id=ends, n_positions=96)


@pytest.fixture(scope="package")
def model(folder: Path) -> Model:
    """The model, loaded."""
    return load_model(fingerprinted(find_model(str(folder))), device="cpu")


@pytest.fixture(scope="package")
def lm(model: Model) -> LanguageModel:
    """The model as `genlm.load` returns it."""
    return LanguageModel(model)


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run the command with the model, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
        return call("batch", *arguments, "-m", folder, "--device", "cpu", stdin=stdin)

    return run


@pytest.fixture
def whole(run: Callable[..., Done]) -> Callable[..., bytes]:
    """Return what an uninterrupted run writes for `rows()`, which are left in in.jsonl."""

    def make(*options: str) -> bytes:
        write_lines("in.jsonl", *rows())
        run("in.jsonl", "-o", "whole.jsonl", "--seed", "7", "--max-new-tokens", "9", "--deterministic", *options)
        return Path("whole.jsonl").read_bytes()

    return make
