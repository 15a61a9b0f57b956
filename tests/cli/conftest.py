"""Fixtures for the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training import LIKES, STORY


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in a folder with a few texts."""
    monkeypatch.chdir(tmp_path)
    Path("likes.txt").write_text(LIKES, "utf-8")
    Path("story.txt").write_text(STORY)
    Path("valid.txt").write_text(STORY[:600])
