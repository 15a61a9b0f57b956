"""A journal holds complete records only, and one run at a time writes it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import filelock  # noqa: F401 (it decides while it is imported how it locks)
import pytest

from genlm.errors import OutputError
from genlm.formats import journal as module
from genlm.formats.journal import open_journal


def test_records_are_in_the_file_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    with open_journal(tmp_path / "a.jsonl") as journal:
        assert journal.append('{"a": "ü"}') == (0, 12)
        assert (tmp_path / "a.jsonl").read_bytes() == '{"a": "ü"}\n'.encode()
        assert journal.append("{}") == (12, 3)
        assert list(journal.lines()) == [(0, '{"a": "ü"}\n'.encode()), (12, b"{}\n")]


def test_a_journal_continues_at_its_end(tmp_path: Path) -> None:
    for number in range(3):
        with open_journal(tmp_path / "a.jsonl") as journal:
            assert journal.append(str(number)) == (2 * number, 2)
    assert (tmp_path / "a.jsonl").read_text() == "0\n1\n2\n"


def test_an_empty_journal_is_deleted(tmp_path: Path) -> None:
    with open_journal(tmp_path / "a.jsonl"):
        assert (tmp_path / "a.jsonl").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [0, 1, 70_000])
def test_a_torn_line_is_cut_off(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + "x" * length)
    with open_journal(path) as journal:
        assert journal.repair() == length
        assert journal.size == 9
        journal.append("{}")
    assert path.read_text() == '{"a": 1}\n{}\n'


# Opens a journal in another process: hides modules, opens it, and says what happened.
OTHER = """\
import os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
path, hidden, then = sys.argv[1:]
if hidden:
    sys.modules[hidden] = None
from genlm.errors import OutputError
from genlm.formats.journal import open_journal
try:
    with open_journal(Path(path)) as journal:
        journal.append("other")
        if then == "be killed":
            os._exit(9)
    print("written")
except OutputError as error:
    print(error)
"""


def other(path: Path, *, hidden: str, then: str = "end") -> str:
    """Return the output of another process that appends to the journal without the module `hidden`."""
    return subprocess.run(
        [sys.executable, "-c", OTHER, path, hidden, then], capture_output=True, check=False, text=True
    ).stdout


@pytest.fixture(params=["", "fcntl"])
def hidden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module that this system lacks, if any. Windows has no fcntl."""
    if request.param:
        monkeypatch.setitem(sys.modules, request.param, None)
    return str(request.param)


def test_a_second_run_is_refused_in_this_process_or_another(tmp_path: Path, hidden: str) -> None:
    path = tmp_path / "a.jsonl"
    with open_journal(path) as journal:
        journal.append("{}")
        with pytest.raises(OutputError, match="is being written by another run"), open_journal(path):
            pass
    with open_journal(path) as journal:
        assert journal.size == 3


@pytest.mark.parametrize("missing", ["", "fcntl"])
def test_the_lock_ends_with_the_process(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "a.jsonl"
    assert other(path, hidden=missing, then="be killed") == ""
    assert other(path, hidden=missing) == "written\n"
    assert path.read_bytes() == b"other\nother\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", ["", "fcntl"])
def test_another_process_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "a.jsonl"
    script = f"import sys, time\nsys.argv = ['-', {str(path)!r}, {missing!r}, 'end']\n"
    holds = script + OTHER.replace('journal.append("other")', "print('open', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        assert other(path, hidden=missing) == f"{path} is being written by another run\n"
        holder.kill()


def test_the_records_can_be_replaced(tmp_path: Path, hidden: str) -> None:
    path = tmp_path / "a.jsonl"
    with open_journal(path) as journal:
        for record in "abc":
            journal.append(record)
        journal.rewrite(line for _, line in reversed(list(journal.lines())))
    assert path.read_bytes() == b"c\nb\na\n"


def test_an_empty_journal_is_deleted_unless_it_is_wanted(tmp_path: Path, hidden: str) -> None:
    path = tmp_path / "a.jsonl"
    with open_journal(path):
        assert path.exists()
    assert not path.exists()
    with open_journal(path) as journal:
        journal.is_wanted = True
    assert path.read_bytes() == b""


def test_a_journal_is_read_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none."""
    monkeypatch.delattr(os, "pread", raising=False)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 70_000)
    with open_journal(path) as journal:
        assert journal.repair() == 70_000
        assert list(journal.lines()) == [(0, b'{"a": 1}\n')]


def test_the_lock_is_for_the_current_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may replace the file after this run opened it and before it locked it."""
    fcntl = pytest.importorskip("fcntl", reason="Windows locks another file")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old\n")
    flock = fcntl.flock
    calls: list[int] = []

    def late(descriptor: int, operation: int) -> None:
        if not calls:
            path.unlink()
            path.write_bytes(b"new\n")
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with open_journal(path) as journal:
        journal.append("more")
    assert path.read_bytes() == b"new\nmore\n"
    assert len(calls) == 2


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example Lustre, mounted without flock."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "a.jsonl"
    with pytest.raises(OutputError, match=r"cannot write .*a\.jsonl: Function not implemented") as caught:
        open_journal(path).__enter__()
    assert caught.value.hint == "its file system may have no locks: write elsewhere"


@pytest.mark.parametrize("room", range(12))
def test_a_full_disk_keeps_no_part_of_a_record(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert (caught.value.hint, caught.value.code) == ("free some disk space", "resumable")
        assert path.read_text() == "{}\n"
        left = 99
        journal.append("x" * 12)
    assert path.read_text() == "{}\n" + "x" * 12 + "\n"


def test_a_failed_fsync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "SYNC_S", -1.0)
    with open_journal(tmp_path / "a.jsonl") as journal, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OutputError, match="Input/output error"):
            journal.append("{}")
