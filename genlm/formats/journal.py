"""A file of JSON lines that grows by whole records and is written by one run at a time.

A record that was appended survives a crash of the program.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from genlm.errors import OutputError
from genlm.formats.output import cannot_write, explaining, has_flock, is_at, remove_drafts, replacing

# Writes survive a crash of the program. Fsync, at most this often, also protects them from power loss.
SYNC_S = 5.0
BLOCK = 1 << 16
# Windows may take a moment to delete the lock of a run that has just ended.
LOCK_S = 0.2


class Journal:
    """An open file with one record a line. An empty one is deleted when it is closed, unless it `is_wanted`.

    `is_lock`: the descriptor holds the lock, so closing it lets another run in.
    """

    def __init__(self, path: Path, descriptor: int, *, is_lock: bool) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self.is_wanted = False
        self._descriptor = descriptor
        self._is_lock = is_lock
        self._is_open = True
        self._synced = time.monotonic()

    def repair(self) -> int:
        """Cut off an incomplete last line. Return its size."""
        return self.cut(self.end_of_last_line())

    def cut(self, size: int) -> int:
        """Keep only the first `size` bytes. Return how many bytes were cut off."""
        cut, self.size = self.size - size, size
        if cut:
            os.ftruncate(self._descriptor, size)
        return cut

    def append(self, line: str) -> tuple[int, int]:
        """Write a record completely or not at all. Return its offset and its size.

        Raises:
            OutputError: the record cannot be written, for example because the disk is full.
        """
        data, start = line.encode() + b"\n", self.size
        try:
            left = data
            while left:
                left = left[os.write(self._descriptor, left) :]
            if time.monotonic() - self._synced > SYNC_S:
                self._sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, start)
            raise cannot_write(self.path, error, hint="free some disk space", code="resumable") from error
        self.size += len(data)
        return start, len(data)

    def sync(self) -> None:
        """Wait until everything is on the disk. Raise OutputError if that fails."""
        if self._is_open:
            with explaining(self.path):
                self._sync()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes, line break included, of every complete line that is there now."""
        at, end = 0, self.end_of_last_line()
        with self.open() as stream:
            while at < end and (line := stream.readline()):
                yield at, line
                at += len(line)

    def open(self) -> BinaryIO:
        """Open the file for reading."""
        return open(self.path, "rb")

    def end_of_last_line(self) -> int:
        """Return where the last complete line ends."""
        at = self.size
        with self.open() as stream:
            while at:
                start = max(0, at - BLOCK)
                stream.seek(start)
                found = stream.read(at - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                at = start
        return 0

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replace the records with `lines`, which may be read from this journal, and close it.

        Raises:
            OutputError: the new file cannot be written; the records stay as they are.
        """
        with replacing(self.path) as stream:
            stream.writelines(lines)
            if not self._is_lock:
                # Windows does not replace open files.
                self.close()
        self.close()

    def close(self) -> None:
        """Close the file, if it is open. Delete it if it is empty and not wanted."""
        if not self._is_open:
            return
        self._is_open = False
        is_empty = os.fstat(self._descriptor).st_size == 0
        is_unused = is_empty and not self.is_wanted and is_at(self._descriptor, self.path)
        if not self._is_lock:
            # Windows does not delete open files.
            os.close(self._descriptor)
        if is_unused:
            with contextlib.suppress(OSError):
                self.path.unlink()
        if self._is_lock:
            os.close(self._descriptor)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = time.monotonic()


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at `path`, or a new one, and keep other runs out until the context ends.

    Drafts of it that killed runs left are removed. The lock ends with the process, however that ends. On Unix the lock
    is on the journal itself, which leaves no other file behind. Windows cannot replace a locked file, so the lock is a
    file beside it.

    Raises:
        OutputError: the file cannot be written, or another run is writing it.
    """
    is_lock = has_flock()
    with nullcontext() if is_lock else _lock_beside(path):
        journal = Journal(path, _open_locked(path) if is_lock else _open(path), is_lock=is_lock)
        remove_drafts(path)
        try:
            yield journal
            journal.sync()
        finally:
            journal.close()


def _open(path: Path) -> int:
    try:
        # O_BINARY keeps Windows from writing \r\n.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error


def _open_locked(path: Path) -> int:
    import fcntl

    while True:
        with ExitStack() as stack:
            descriptor = _open(path)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise _in_use(path) from error
            except OSError as error:
                raise cannot_write(path, error, hint="its file system may have no locks: write elsewhere") from error
            # The run that held the lock before may have replaced or deleted the file.
            if is_at(descriptor, path):
                stack.pop_all()
                return descriptor


@contextmanager
def _lock_beside(path: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        # On a system with neither flock nor Windows' locks, filelock uses a file with the process id and warns.
        warnings.filterwarnings("ignore", message="only soft file lock")
        from filelock import FileLock, Timeout
    lock = FileLock(f"{os.path.realpath(path)}.lock", timeout=LOCK_S)
    try:
        held = lock.acquire()
    except Timeout as error:
        raise _in_use(path) from error
    except OSError as error:
        raise cannot_write(path, error) from error
    with held:
        yield


def _in_use(path: Path) -> OutputError:
    return OutputError(
        f"{path} is being written by another run", hint="wait for it to end, or give this one another output"
    )
