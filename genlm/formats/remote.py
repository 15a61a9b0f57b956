"""Files in object stores and on other machines, with the part of `Path` that reading them needs."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from genlm.errors import InputError


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
    """A file at a URI. Its attributes and methods are named as those of `Path`."""

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
