"""Where a result goes: standard output, or a file that is whole or not there at all."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from genlm.errors import OutputError

# /dev/stdout opened as a file would be emptied first, and `>>` means to keep it.
STANDARD_OUTPUT = ("-", "/dev/stdout")
WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)


def is_standard_output(path: Path | None) -> bool:
    """Whether a result for `path` goes to standard output."""
    return path is None or str(path) in STANDARD_OUTPUT


def open_output(path: Path | None) -> AbstractContextManager[TextIO]:
    """A text stream to write the result to, UTF-8; standard output without a path.

    A file is written beside its place and moved there at the end, or on Ctrl-C, which keeps what was made. On any
    error the file that was there before stays.

    Raises:
        OutputError: on entering, where the file cannot be written; later, where a write fails.
    """
    if path is None or is_standard_output(path):
        return _standard_output()
    if os.path.exists(path) and not os.path.isfile(path):
        # A device or a named pipe has no place beside it.
        return _in_place(path)
    return _replacing(path)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose contents take the place of the file at `path` at the end; on any error that one stays.

    Raises:
        OutputError: where the file cannot be written.
    """
    with _draft(path) as draft:
        with _explaining_writes(path), os.fdopen(draft.descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(draft.descriptor)
        with _explaining(path):
            draft.move()


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    with _explaining_writes("standard output"):
        yield sys.stdout
        sys.stdout.flush()


@contextmanager
def _in_place(path: Path) -> Iterator[TextIO]:
    with _explaining(path):
        stream = path.open("w", encoding="utf-8", newline="\n")
    with _explaining_writes(path), stream:
        yield stream


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    with _draft(path) as draft:
        try:
            with _explaining_writes(path), os.fdopen(draft.descriptor, "w", encoding="utf-8", newline="\n") as stream:
                yield stream
        except KeyboardInterrupt:
            if draft.path.stat().st_size > 0:
                draft.move()
            raise
        with _explaining(path):
            draft.move()


class _Draft(NamedTuple):
    """A file beside the one whose place it is to take, open to be written."""

    path: Path
    descriptor: int
    target: Path
    mode: int

    def move(self) -> None:
        """Let it take that place."""
        self.path.chmod(self.mode)
        self.path.replace(self.target)


@contextmanager
def _draft(path: Path) -> Iterator[_Draft]:
    """A draft of the file at `path`, gone at the end unless it was moved."""
    target = Path(os.path.realpath(path))
    with _explaining(path):
        mode = _mode(target)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".genlm-")
    draft = _Draft(Path(name), descriptor, target, mode)
    try:
        yield draft
    finally:
        draft.path.unlink(missing_ok=True)


def _mode(target: Path) -> int:
    """The permissions that the file has, or that a new one would be given; OSError where it may not be written."""
    try:
        mode = target.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return mode


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def _explaining_writes(name: Path | str) -> Iterator[None]:
    """For code that reads files too: only a write fails like this."""
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_FAILURES:
            raise
        raise cannot_write(name, error) from error


def cannot_write(name: Path | str, error: OSError, *, hint: str | None = None) -> OutputError:
    """What to say of a file that cannot be written."""
    return OutputError(f"cannot write {name}: {error.strerror or error}", hint=hint)
