"""The file that records are kept in: whole records only, written at once, by one run at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genlm.errors import OutputError
from genlm.formats import journal as module
from genlm.formats.journal import open_journal


def test_records_are_in_the_file_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    with open_journal(tmp_path / "a.jsonl") as journal:
        assert journal.append('{"a": "ü"}') == (0, 12)
        assert (tmp_path / "a.jsonl").read_text() == '{"a": "ü"}\n'
        assert journal.append("{}") == (12, 3)
        assert list(journal.lines()) == [(0, '{"a": "ü"}\n'.encode()), (12, b"{}\n")]


def test_a_journal_goes_on_where_it_ended(tmp_path: Path) -> None:
    for number in range(3):
        with open_journal(tmp_path / "a.jsonl") as journal:
            assert journal.append(str(number)) == (2 * number, 2)
    assert (tmp_path / "a.jsonl").read_text() == "0\n1\n2\n"


def test_one_that_stays_empty_is_taken_away(tmp_path: Path) -> None:
    with open_journal(tmp_path / "a.jsonl"):
        assert (tmp_path / "a.jsonl").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [0, 1, 70_000])
def test_a_torn_line_is_cut_away(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + "x" * length)
    with open_journal(path) as journal:
        assert journal.repair() == length
        assert journal.size == 9
        journal.append("{}")
    assert path.read_text() == '{"a": 1}\n{}\n'


def test_a_second_run_is_refused_in_this_process_or_another(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_journal(path) as journal:
        journal.append("{}")
        with pytest.raises(OutputError, match="is being written by another run"), open_journal(path):
            pass
        code = "import sys; from pathlib import Path; from genlm.formats.journal import open_journal\n"
        code += "with open_journal(Path(sys.argv[1])): pass"
        other = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
        assert b"is being written by another run" in other.stderr
    with open_journal(path) as journal:
        assert journal.size == 3


def test_a_lock_holds_for_the_file_that_is_there_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may end, and put a new file in the place of the old one, between our opening it and our lock."""
    path = tmp_path / "a.jsonl"
    path.write_text("old\n")
    lock = module._lock
    calls: list[int] = []

    def late(descriptor: int, place: Path) -> None:
        if not calls:
            path.unlink()
            path.write_text("new\n")
        calls.append(descriptor)
        lock(descriptor, place)

    monkeypatch.setattr(module, "_lock", late)
    with open_journal(path) as journal:
        journal.append("more")
    assert path.read_text() == "new\nmore\n"
    assert len(calls) == 2


@pytest.mark.parametrize("room", range(12))
def test_where_the_disk_is_full_nothing_of_a_record_stays(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    left = 3 + room
    write = os.write

    def little(descriptor: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[:left])
        left -= written
        return written

    with open_journal(path) as journal:
        monkeypatch.setattr(os, "write", little)
        journal.append("{}")
        with pytest.raises(OutputError, match="No space left on device") as caught:
            journal.append("x" * 12)
        assert "--resume" in str(caught.value.hint)
        assert path.read_text() == "{}\n"
        left = 99
        journal.append("x" * 12)
    assert path.read_text() == "{}\n" + "x" * 12 + "\n"


def test_a_record_that_the_disk_refuses_later_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "SYNC_S", -1.0)
    with open_journal(tmp_path / "a.jsonl") as journal, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OutputError, match="Input/output error"):
            journal.append("{}")
