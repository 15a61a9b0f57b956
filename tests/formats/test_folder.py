"""Folders on this machine and elsewhere, whose files are complete or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlm.errors import InputError, OutputError
from genlm.formats.folder import open_folder


@pytest.fixture(params=["path", "uri"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "folder"
    return str(path) if request.param == "path" else path.as_uri()


def test_files_are_written_read_listed_and_removed(place: str) -> None:
    folder = open_folder(place)
    assert folder.names() == []
    assert folder.read("a/b") is None
    folder.write("a/b", b"one")
    folder.write("a/b", b"two")
    folder.write("a/c", b"")
    assert folder.read("a/b") == b"two"
    assert folder.names("a") == ["b", "c"]
    folder.remove("a/b")
    assert folder.names("a") == ["c"]
    folder.remove("a")
    folder.remove("a")
    assert folder.names() == []


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "parts"))
    with folder.locked(), pytest.raises(OutputError, match="being written by another run"), folder.locked():
        pass


def test_drafts_of_killed_runs_are_removed_by_the_next_run(tmp_path: Path) -> None:
    left = tmp_path / ".genlm-0123abcd-0"
    left.write_bytes(b"half")
    folder = open_folder(str(tmp_path))
    folder.write("part", b"whole")
    assert left.exists()
    with folder.locked():
        assert folder.names() == [".lock", "part"]


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        open_folder(str(tmp_path / "file")).names()


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        open_folder("nowhere://x/y").names()
