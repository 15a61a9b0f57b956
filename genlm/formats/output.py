"""Where a result goes: standard output, or a file that is whole or not there at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from genlm.errors import OutputError


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """A text stream to write the result to, UTF-8; standard output without a path or for `-`.

    A file is written beside its place and moved there at the end, or on Ctrl-C, which keeps what was made. On any
    error the file that was there before stays.

    Raises:
        OutputError: at once, where the file cannot be written.
    """
    if path is None or str(path) == "-":
        yield sys.stdout
        return
    if path.exists() and not path.is_file():
        # A device or a named pipe has no place beside it.
        with _opened(path) as stream:
            yield stream
        return
    with _replacing(path) as stream:
        yield stream


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    target = path.resolve()
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"cannot write {path}: Permission denied")
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            interrupted = None
            try:
                yield stream
            except KeyboardInterrupt as error:
                interrupted = error
        temporary.chmod(_mode(target))
        temporary.replace(target)
        if interrupted is not None:
            raise interrupted
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _mode(target: Path) -> int:
    """The permissions that the file has, or that a new one would be given."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
