"""Files that may be compressed, read as if they were not."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from genlm.errors import InputError
from genlm.formats.remote import RemoteFile

SUFFIXES = (".gz", ".zst")
# A file may expand to this many bytes, or to this many times its size if that is more: text rarely expands to more than
# 20 times its size, a decompression bomb to 1,000 times.
LARGEST, MOST_TIMES = 1 << 30, 100
BLOCK = 1 << 20
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


def read_blocks(path: Path | RemoteFile) -> Iterator[bytes]:
    """Yield the contents of a file, decompressed, in blocks.

    Raises:
        InputError: the file does not exist, cannot be opened, or expands to more than LARGEST and MOST_TIMES allow.
        OSError, EOFError, zlib.error: the file is damaged; see DAMAGED.
    """
    with open_bytes(path) as stream:
        limit = max(LARGEST, MOST_TIMES * path.stat().st_size)
        size = 0
        while block := stream.read(BLOCK):
            size += len(block)
            if size > limit:
                raise InputError(
                    f"{path} expands to more than {limit >> 20:,} MiB", hint="decompress it first, or split it"
                )
            yield block


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
