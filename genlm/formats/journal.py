"""A file of JSON lines that only grows, by whole records: what is in it survives whatever ends the program."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from genlm.errors import OutputError
from genlm.formats.output import cannot_write

# The system has what was written at once, and so survives the program; the disk has it so many seconds later at most.
SYNC_S = 5.0


class Journal:
    """Records in a file, each on a line of its own. It stays without any where it `is_wanted`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._synced = time.monotonic()
        self.size = os.fstat(descriptor).st_size
        self.is_wanted = False

    def repair(self) -> int:
        """Cut away a record that was not written to its end, as the lack of a line break tells. Returns its size."""
        return self.cut(self.end_of_last_line())

    def cut(self, size: int) -> int:
        """Forget all but the first `size` bytes. Returns how many that were."""
        cut, self.size = self.size - size, size
        if cut:
            os.ftruncate(self._descriptor, size)
        return cut

    def append(self, line: str) -> tuple[int, int]:
        """Write a record, of which nothing stays if it cannot be written. Returns where it lies, and its size.

        Raises:
            OutputError: as where the disk is full.
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
            raise cannot_write(self.path, error, hint="once there is room again, --resume continues") from error
        self.size += len(data)
        return start, len(data)

    def sync(self) -> None:
        """Let the disk have everything. Raises OutputError where it cannot."""
        try:
            self._sync()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every whole line that is there now, its break included, with where it lies."""
        at, end = 0, self.end_of_last_line()
        with self.open() as stream:
            while at < end and (line := stream.readline()):
                yield at, line
                at += len(line)

    def open(self) -> BinaryIO:
        """The file, to be read."""
        return open(self.path, "rb")

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def end_of_last_line(self) -> int:
        """Where the last whole line ends; what is beyond was not written to its end."""
        at = self.size
        while at:
            start = max(0, at - (1 << 16))
            block = os.pread(self._descriptor, at - start, start)
            found = block.rfind(b"\n")
            if found >= 0:
                return start + found + 1
            at = start
        return 0


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at `path`, which no other run writes meanwhile; it is made where there is none.

    One that stays empty is taken away again, unless it is wanted.

    Raises:
        OutputError: a file that cannot be written, or that another run is writing.
    """
    descriptor = _locked(path)
    try:
        journal = Journal(path, descriptor)
        try:
            yield journal
            journal.sync()
        finally:
            with contextlib.suppress(OSError):
                if not journal.is_wanted and os.fstat(descriptor).st_size == 0 and _is_at(descriptor, path):
                    path.unlink()
    finally:
        # Closing gives up the lock, as the end of the program does, however it comes.
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            _lock(descriptor, path)
            # The run that had the lock may have put another file in its place.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputError(
            f"{path} is being written by another run", hint="wait for it to end, or give this one another output"
        ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
