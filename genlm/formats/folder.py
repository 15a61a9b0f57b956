"""A folder whose files are either complete or not there at all: local, shared, or in an object store."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genlm.errors import OutputError
from genlm.formats.files import file_system, is_remote
from genlm.formats.journal import open_journal
from genlm.formats.output import DRAFT, cannot_write, explaining, remove_abandoned, replacing

# Locked by the run that writes to a folder, or by the process that made a temporary one.
LOCK = ".lock"
# Marks a temporary folder that is locked, or whose process has ended.
HELD = "genlm.held"


@contextmanager
def temporary_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder in `parent`, by default the system's temporary folder, and remove it at the end.

    Folders for the same purpose that killed processes left are removed too.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    prefix = f"genlm-{purpose}-"
    for folder in parent.glob(f"{prefix}*"):
        _remove_abandoned_folder(folder)
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with open_journal(made / LOCK):
            (made / HELD).touch()
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_abandoned_folder(folder: Path) -> None:
    """Remove a temporary folder whose process has ended."""
    with contextlib.suppress(OSError, OutputError):
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            return
        # Without the mark, the process is about to lock it.
        if (folder / HELD).exists():
            with open_journal(folder / LOCK):
                pass
            # After the lock is closed, because Windows does not delete open files.
            shutil.rmtree(folder, ignore_errors=True)


def open_folder(place: str) -> LocalFolder | RemoteFolder:
    """Return the folder at a path, or at a URI such as s3:// or gs:// that pyarrow has a file system for."""
    return RemoteFolder(place) if is_remote(place) else LocalFolder(place)


@dataclass(frozen=True)
class LocalFolder:
    """A folder at a path, perhaps shared by several machines. Names of its files may contain `/`."""

    place: str

    def read(self, name: str) -> bytes | None:
        """Return a file's contents, or None if it does not exist."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file's contents. If the program ends meanwhile, the file has either the old contents or the new.

        Raises:
            OutputError: the file cannot be written, for example because the disk is full.
        """
        path = self._path(name)
        with explaining(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(data)

    def names(self, under: str = "") -> list[str]:
        """Return the sorted names of the files and folders in this folder, or in its subfolder `under`."""
        try:
            return sorted(os.listdir(self._path(under)))
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise OutputError(f"{self.place} is a file, but a folder is needed for the part files") from error

    def remove(self, name: str) -> None:
        """Delete a file, or a folder and everything in it, if it exists."""
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from writing to the folder, and remove what killed ones left half-written.

        Raises:
            OutputError: another run is writing to the folder.
        """
        folder = self._path("")
        with explaining(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with open_journal(folder / LOCK):
            for draft in folder.glob(f"{DRAFT}*"):
                remove_abandoned(draft)
            yield

    def _path(self, name: str) -> Path:
        return Path(self.place, name)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in an object store, which stores an object completely or not at all."""

    place: str

    def read(self, name: str) -> bytes | None:
        """See LocalFolder."""
        system, path = self._located(name)
        try:
            with system.open_input_stream(path) as stream:
                return cast(bytes, stream.read())
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See LocalFolder."""
        system, path = self._located(name)
        try:
            # An object store has no folders, but other file systems need them.
            system.create_dir(path.rpartition("/")[0], recursive=True)
            with system.open_output_stream(path) as stream:
                stream.write(data)
        except OSError as error:
            raise cannot_write(f"{self.place}/{name}", error) from error

    def names(self, under: str = "") -> list[str]:
        """See LocalFolder."""
        from pyarrow import fs

        system, path = self._located(under)
        return sorted(info.base_name for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)))

    def remove(self, name: str) -> None:
        """See LocalFolder."""
        from pyarrow import fs

        system, path = self._located(name)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.Directory:
            system.delete_dir(path)
        elif kind == fs.FileType.File:
            system.delete_file(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do nothing: an object store has no locks."""
        yield

    def _located(self, name: str) -> tuple[Any, str]:
        system, path = file_system(self.place)
        return system, f"{path}/{name}" if name else path
