"""A result is written completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.systems import needs_unix

from genlm.errors import OutputError
from genlm.formats.output import csv_safe, is_standard_output, open_output


class Interruption(BaseException):
    """Not an Exception, like the one that a termination signal raises."""


def write_and_fail(path: Path, text: str, error: type[BaseException]) -> None:
    with open_output(path) as stream:
        stream.write(text)
        raise error


def in_folder(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.mark.parametrize("path", [None, Path("-"), Path("/dev/stdout")])
def test_without_a_file_the_result_goes_to_standard_output(path: Path | None, capsys: pytest.CaptureFixture) -> None:
    with open_output(path) as stream:
        stream.write("text\n")
    assert capsys.readouterr().out == "text\n"
    assert is_standard_output(path)


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with open_output(path) as stream:
        stream.write("né狐\n")
        stream.flush()
        assert not path.exists()
    assert path.read_bytes() == "né狐\n".encode()
    assert in_folder(path) == ["out.txt"]


@pytest.mark.parametrize(
    ("text", "error"),
    [("half", ValueError), ("half", MemoryError), ("half", Interruption), ("", KeyboardInterrupt)],
)
def test_the_old_file_stays_after_an_error_or_if_nothing_was_written(
    tmp_path: Path, text: str, error: type[BaseException]
) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")
    with pytest.raises(error):
        write_and_fail(path, text, error)
    assert path.read_text() == "before"
    assert in_folder(path) == ["out.txt"]


# Opens a file in another process, says so, and writes it when its standard input ends.
OTHER = """\
import sys
from pathlib import Path
from genlm.formats.output import open_output
with open_output(Path(sys.argv[1])) as stream:
    stream.write("other")
    stream.flush()
    print("open", flush=True)
    sys.stdin.read()
"""


def open_in_other_process(path: Path) -> subprocess.Popen[str]:
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    return other


@needs_unix("no SIGKILL")
@pytest.mark.parametrize("killed", [1, 3])
def test_drafts_of_killed_processes_are_removed_with_the_next_write(tmp_path: Path, killed: int) -> None:
    path = tmp_path / "out.txt"
    others = [open_in_other_process(path) for _ in range(killed)]
    for other in others:
        other.kill()
        other.communicate()
    assert len(in_folder(path)) == killed
    with open_output(tmp_path / "another.txt") as stream:
        stream.write("text")
    assert len(in_folder(path)) == killed + 1
    with open_output(path) as stream:
        stream.write("text")
    assert in_folder(path) == ["another.txt", "out.txt"]


@needs_unix("no SIGKILL")
def test_the_draft_of_a_running_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with open_in_other_process(path) as other:
        with open_output(path) as stream:
            stream.write("text")
        assert path.read_text() == "text"
        other.communicate("")
    assert path.read_text() == "other"
    assert in_folder(path) == ["out.txt"]


def test_a_file_system_without_locks_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "out.txt"
    with open_output(path) as outer, open_output(path) as inner:
        outer.write("outer")
        inner.write("inner")
    assert path.read_text() == "outer"
    assert in_folder(path) == ["out.txt"]


def test_ctrl_c_keeps_the_text_so_far(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(path, "half", KeyboardInterrupt)
    assert path.read_text() == "half"


@needs_unix("only some users may make symbolic links")
def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    for text in ("new", "replaced"):
        with open_output(link) as stream:
            stream.write(text)
        assert link.is_symlink()
        assert target.read_text() == text


@needs_unix("files have no permissions")
def test_permissions_stay_and_a_new_file_has_the_usual_ones(tmp_path: Path) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.touch()
    old.chmod(0o604)
    before = os.umask(0o027)
    try:
        for path in (old, new):
            with open_output(path) as stream:
                stream.write("text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(old.stat().st_mode) == 0o604
    assert stat.S_IMODE(new.stat().st_mode) == 0o640


@needs_unix("named pipes are no files")
def test_a_device_and_a_named_pipe_are_written_in_place(tmp_path: Path) -> None:
    with open_output(Path(os.devnull)) as stream:
        stream.write("text")
    assert not Path(os.devnull).is_file()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with open_output(pipe) as stream:
        stream.write("text")
    assert os.read(reading, 10) == b"text"
    os.close(reading)


@needs_unix("the reasons are worded differently")
def test_an_unwritable_path_is_an_error_on_opening(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    reasons = {
        tmp_path: "Is a directory",
        tmp_path / "missing" / "out.txt": "No such file or directory",
        tmp_path / "file" / "out.txt": "Not a directory",
        tmp_path / "loop" / "out.txt": "Too many levels of symbolic links",
        tmp_path / ("n" * 300): "File name too long",
    }
    for path, reason in reasons.items():
        with pytest.raises(OutputError, match=f"cannot write {path}: {reason}"), open_output(path):
            pytest.fail("opened")


def test_a_file_that_is_write_protected_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    path.write_text("before")
    # The superuser may write everything, so a mode alone would not show it.
    monkeypatch.setattr(os, "access", lambda file, mode: False)
    with pytest.raises(OutputError, match="Permission denied"), open_output(path):
        pytest.fail("opened")
    assert path.read_text() == "before"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="cannot write /dev/full: No space"), open_output(Path("/dev/full")) as stream:
        stream.write("text")
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(OutputError, match="cannot write standard output: No space"), open_output(None) as stream:
        stream.write("text")
    os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    full.close()


def test_errors_of_other_files_are_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_output(tmp_path / "out.txt"):
        (tmp_path / "model").read_bytes()
    with pytest.raises(FileNotFoundError), open_output(None):
        (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_may_run_gets_a_quote(start: str) -> None:
    assert csv_safe(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("text", ["", "a=1", "'=1", " =1", "1-1", "\n=1"])
def test_other_texts_do_not_change_in_csv(text: str) -> None:
    assert csv_safe(text) == text
