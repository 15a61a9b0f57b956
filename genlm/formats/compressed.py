"""Files that may be compressed, read as if they were not."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from genlm.errors import InputError
from genlm.formats.remote import RemoteFile

SUFFIXES = (".gz", ".zst")
# Raised while reading a file that ends early or is not compressed as its name says.
DAMAGED = (OSError, EOFError, zlib.error)


def plain_name(path: Path | RemoteFile) -> str:
    """Return the file's name without the suffix of its compression: `a.jsonl` for `a.jsonl.gz`."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def open_bytes(path: Path | RemoteFile) -> BinaryIO:
    """Open a file for reading, and decompress it as it is read if its name ends in .gz or .zst.

    Damage inside a compressed file shows only when it is read, as one of DAMAGED; `damage` returns the error to raise.

    Raises:
        InputError: the file does not exist or cannot be opened.
    """
    try:
        return _open(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def damage(path: Path, error: Exception) -> InputError:
    """Return the error for a file that raised one of DAMAGED."""
    return InputError(f"{path}: cannot be read: {error}", hint="it is damaged, cut off, or not a file of this kind")


def _open(path: Path | RemoteFile) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path if isinstance(path, Path) else path.open("rb")))
    file = path.open("rb")
    if suffix == ".zst":
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream))
    return file
