"""Files to read: at a path or a URI, plain or compressed."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from genlm.errors import InputError

STDIN = Path("-")
SUFFIXES = (".gz", ".zst")
# A file may expand to this many bytes, or to this many times its size if that is more. Text rarely expands to more than
# 20 times its size, a decompression bomb expands to 1,000 times.
LARGEST, MOST_TIMES = 1 << 30, 100
BLOCK = 1 << 20
# Raised while reading a file that ends early or is not compressed as its name says.
DAMAGED = (OSError, EOFError, zlib.error)


def is_remote(place: str) -> bool:
    """Return whether a place is a URI such as s3://bucket/file and not a path. A single letter is a drive: C://folder."""
    return re.match("[a-z][a-z0-9+.-]+://", place, re.IGNORECASE) is not None


def read_place(text: str) -> Path | RemoteFile:
    """Return the path or the file at a URI that `text` names."""
    return RemoteFile(text) if is_remote(text) else Path(text)


def file_system(uri: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a URI, and the path in it.

    Raises:
        InputError: the scheme is unknown, or the store cannot be reached.
    """
    import pyarrow
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{uri} cannot be reached: {error}") from error
    return system, path.rstrip("/")


class FileStatus(NamedTuple):
    """The part of `os.stat_result` that is known for a remote file."""

    st_size: int


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URI, with the attributes and methods of `Path`."""

    uri: str

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """See Path."""
        return PurePosixPath(self.uri).name

    @property
    def stem(self) -> str:
        """See Path."""
        return PurePosixPath(self.uri).stem

    @property
    def suffix(self) -> str:
        """See Path."""
        return PurePosixPath(self.uri).suffix

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file for reading. Raise OSError if that fails."""
        system, path = file_system(self.uri)
        # pyarrow files have no readline.
        return io.BufferedReader(system.open_input_file(path))

    def stat(self) -> FileStatus:
        """Return the size only. See Path."""
        system, path = file_system(self.uri)
        return FileStatus(system.get_file_info(path).size or 0)

    def exists(self) -> bool:
        """See Path."""
        return self._type() != "NotFound"

    def is_dir(self) -> bool:
        """See Path."""
        return self._type() == "Directory"

    def is_file(self) -> bool:
        """See Path."""
        return self._type() == "File"

    def _type(self) -> str:
        system, path = file_system(self.uri)
        try:
            return str(system.get_file_info(path).type.name)
        except OSError as error:
            raise InputError(f"{self.uri} cannot be reached: {error}") from error


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_name(path: Path | RemoteFile) -> str:
    """Return the file's name without the suffix of its compression: `a.jsonl` for `a.jsonl.gz`."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def open_bytes(path: Path | RemoteFile) -> BinaryIO:
    """Open a file for reading, and decompress it as it is read if its name ends in .gz or .zst.

    Damage inside a compressed file shows only when it is read, as one of DAMAGED; `damage` returns the error to raise.

    Raises:
        InputError: the file does not exist or cannot be opened.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz" and isinstance(path, Path):
            return cast(BinaryIO, gzip.open(path))
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(file))
    if suffix == ".zst":
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream))
    return file


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
