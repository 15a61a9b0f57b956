"""Files in object stores and on other machines, as far as they are read like local ones."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from genlm.errors import InputError


def is_remote(place: str) -> bool:
    """Whether a place is a URI such as s3://bucket/file and not a path. A single letter is a drive: C://folder."""
    return re.match("[a-z][a-z0-9+.-]+://", place, re.IGNORECASE) is not None


def read_place(text: str) -> Path | RemoteFile:
    """A path, or a file at a URI."""
    return RemoteFile(text) if is_remote(text) else Path(text)


def file_system(uri: str) -> tuple[Any, str]:
    """pyarrow's file system for a URI, and the path in it.

    Raises:
        InputError: a kind of URI that is not known, or a store that cannot be reached.
    """
    import pyarrow
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{uri} cannot be reached: {error}") from error
    return system, path.rstrip("/")


class FileStatus(NamedTuple):
    """What is known of a file without reading it."""

    st_size: int


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URI. What it has in common with a `Path` has the same name."""

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
        """The file's bytes. Raises OSError where it cannot be read."""
        system, path = file_system(self.uri)
        # Lines are read of it, which pyarrow's own file has not.
        return io.BufferedReader(system.open_input_file(path))

    def stat(self) -> FileStatus:
        """See Path; the size alone."""
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
