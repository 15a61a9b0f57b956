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
# What reading raises where a compressed file ends early or holds something else.
DAMAGED = (OSError, EOFError, zlib.error)


def plain_name(path: Path | RemoteFile) -> str:
    """The file's name without the suffix that tells how it is compressed: `a.jsonl` for `a.jsonl.gz`."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def open_bytes(path: Path | RemoteFile) -> BinaryIO:
    """The file's bytes from its beginning, decompressed where its name ends in .gz or .zst, read as they are needed.

    What is wrong inside a compressed file shows only while it is read: as one of DAMAGED, which `damage` words.

    Raises:
        InputError: a file that is not there or cannot be opened.
    """
    try:
        return _open(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def damage(path: Path, error: Exception) -> InputError:
    """What to say of a file whose reading raised one of DAMAGED."""
    return InputError(f"{path}: cannot be read: {error}", hint="it is damaged, was cut off, or is no such file")


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
