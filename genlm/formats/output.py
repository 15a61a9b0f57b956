"""Where a result goes: standard output, or a file that is either complete or not there at all."""

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

# Opening /dev/stdout as a file would truncate it, although the shell's `>>` asks to append.
STANDARD_OUTPUT = ("-", "/dev/stdout")
# A spreadsheet may run a cell that begins with one of these as a formula. The list and the remedy are OWASP's:
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)


def is_standard_output(path: Path | None) -> bool:
    """Return whether a result for `path` goes to standard output."""
    return path is None or path.as_posix() in STANDARD_OUTPUT


def open_output(path: Path | None) -> AbstractContextManager[TextIO]:
    """Open a UTF-8 text stream for the result; without a path it is standard output.

    A file is written under another name and renamed at the end, or on Ctrl-C, which keeps what was written so far.
    After any other error the old file is still there.

    Raises:
        OutputError: on entering if the file cannot be written, later if a write fails.
    """
    if path is None or is_standard_output(path):
        return _standard_output()
    if os.path.exists(path) and not os.path.isfile(path):
        # A device or a named pipe cannot be replaced by a file.
        return _in_place(path)
    return _replacing(path)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary stream whose contents replace the file at `path` at the end. After an error the old file stays.

    Raises:
        OutputError: the file cannot be written.
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
    """A file beside the one that it will replace, open for writing."""

    path: Path
    descriptor: int
    target: Path
    mode: int

    def move(self) -> None:
        """Replace the target. Windows needs both files to be closed."""
        self.path.chmod(self.mode)
        self.path.replace(self.target)


@contextmanager
def _draft(path: Path) -> Iterator[_Draft]:
    """Create a draft of the file at `path`, and delete it at the end unless it was moved."""
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
    """Return the permissions of the file, or those of a new one. Raise OSError if it is write-protected."""
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
    """Explain failed writes of a block that also reads other files."""
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_FAILURES:
            raise
        raise cannot_write(name, error) from error


def cannot_write(name: Path | str, error: OSError, *, hint: str | None = None, code: str | None = None) -> OutputError:
    """Return the error for a file that cannot be written."""
    return OutputError(f"cannot write {name}: {error.strerror or error}", hint=hint, code=code)


def csv_safe(text: str) -> str:
    """Return the text of a CSV cell with a single quote before it if a spreadsheet may run it as a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
