"""Where a result goes: standard output, or a file that is either complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from genlm.errors import OutputError

# Opening /dev/stdout as a file would truncate it, although the shell's `>>` asks to append.
STANDARD_OUTPUT = ("-", "/dev/stdout")
# Half of a surrogate pair, which cannot be encoded, becomes a question mark.
TEXT: Any = {"encoding": "utf-8", "errors": "replace", "newline": "\n"}
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
        with explaining(path):
            draft.move()


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    with _explaining_writes("standard output"):
        yield sys.stdout
        sys.stdout.flush()


@contextmanager
def _in_place(path: Path) -> Iterator[TextIO]:
    with explaining(path):
        stream = path.open("w", **TEXT)
    with _explaining_writes(path), stream:
        yield stream


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    with _draft(path) as draft:
        try:
            with _explaining_writes(path), os.fdopen(draft.descriptor, "w", **TEXT) as stream:
                yield stream
        except KeyboardInterrupt:
            if draft.path.stat().st_size > 0:
                draft.move()
            raise
        with explaining(path):
            draft.move()


# Drafts. Each is locked while its process lives, so a draft without a lock is that of a process that was killed.

# A draft's name is this, a digest of its target's name, and a number.
DRAFT = ".genlm-"
# More processes than this never write the same file at once.
MOST_DRAFTS = 8


@dataclass
class _Draft:
    """A file beside the one that it will replace, open for writing."""

    path: Path
    descriptor: int
    target: Path
    mode: int
    is_moved: bool = False

    def move(self) -> None:
        """Replace the target. Windows needs both files to be closed."""
        self.path.chmod(self.mode)
        self.path.replace(self.target)
        self.is_moved = True


@contextmanager
def _draft(path: Path) -> Iterator[_Draft]:
    """Create a draft of the file at `path`, and delete it at the end unless it was moved."""
    target = Path(os.path.realpath(path))
    with ExitStack() as stack:
        with explaining(path):
            mode = _mode(target)
            name, descriptor = _new_draft(target)
        if has_flock():
            # Writing closes the descriptor, but the lock must last until the draft is moved or removed.
            stack.callback(os.close, os.dup(descriptor))
        draft = _Draft(name, descriptor, target, mode)
        try:
            yield draft
        finally:
            # Once it has moved, another process may use its name.
            if not draft.is_moved:
                name.unlink(missing_ok=True)


def _new_draft(target: Path) -> tuple[Path, int]:
    """Create a locked draft, and remove abandoned ones. Return its name and descriptor."""
    remove_drafts(target)
    for name in _draft_names(target):
        with contextlib.suppress(FileExistsError):
            # O_BINARY keeps Windows from writing \r\n.
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            # Until it is locked, it seems abandoned, and another process may remove it.
            if lock(descriptor) is not False and is_at(descriptor, name):
                return name, descriptor
            os.close(descriptor)
    descriptor, other = tempfile.mkstemp(dir=target.parent, prefix=DRAFT)
    return Path(other), descriptor


def _draft_names(target: Path) -> list[Path]:
    digest = hashlib.blake2b(os.fsencode(target.name), digest_size=4).hexdigest()
    return [target.with_name(f"{DRAFT}{digest}-{number}") for number in range(MOST_DRAFTS)]


def remove_drafts(path: Path) -> None:
    """Remove the drafts of a file that killed processes left."""
    for name in _draft_names(Path(os.path.realpath(path))):
        remove_abandoned(name)


def remove_abandoned(path: Path) -> None:
    """Remove a file if the process that locked it has ended."""
    with contextlib.suppress(OSError):
        if not has_flock():
            # Windows does not remove open files.
            path.unlink()
            return
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if lock(descriptor) and is_at(descriptor, path):
                path.unlink()
        finally:
            os.close(descriptor)


def has_flock() -> bool:
    """Return whether this system has Unix's locks, which end with the process that holds them."""
    return find_spec("fcntl") is not None


def lock(descriptor: int) -> bool | None:
    """Lock an open file. Return whether that worked; None if the system or the file system has no locks."""
    if not has_flock():
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


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
def explaining(path: Path) -> Iterator[None]:
    """Raise OutputError instead of OSError, with the name of the file that cannot be written."""
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
