"""The texts of a corpus: files and folders, plain or JSON Lines, compressed or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from genlm.errors import InputError
from genlm.formats.files import DAMAGED, damage, is_unicode, plain_name, read_blocks

JSON_LINES = ".jsonl"
IN_FOLDERS = (".txt", JSON_LINES)
FIELD = "text"


@dataclass(frozen=True)
class TextFile:
    """A file's documents: the texts of a .jsonl file's records, or the contents as a whole.

    `digest` is the SHA-256 of the contents, decompressed.
    """

    path: Path
    documents: tuple[str, ...]
    digest: str

    @property
    def is_records(self) -> bool:
        """Whether the file itself marks where a document ends."""
        return plain_name(self.path).endswith(JSON_LINES)

    @property
    def num_bytes(self) -> int:
        """The length of all documents in UTF-8."""
        return sum(len(document.encode()) for document in self.documents)


def find_files(sources: Iterable[Path], without: Path | None = None) -> list[Path]:
    """Return the files of `sources`, each once, and for a folder the .txt and .jsonl files in it, at any depth.

    They have the order of `sources`, and within a folder that of their names, which may also end in .gz or .zst. Files
    in the folder `without` are left out.

    Raises:
        InputError: a source does not exist, or a folder has no such file.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _in_folder(source, without) if source.is_dir() else [source]:
            if not path.exists():
                raise InputError(f"no such file or folder: {path}")
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _in_folder(folder: Path, without: Path | None) -> list[Path]:
    named = (path for path in folder.rglob("*") if Path(plain_name(path)).suffix in IN_FOLDERS)
    found = [
        path
        for path in named
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    # By parts, because Windows ignores case when it compares paths.
    texts = sorted(found, key=lambda path: path.parts)
    if without is not None:
        texts = [path for path in texts if without.resolve() not in path.resolve().parents]
    if not texts:
        raise InputError(f"{folder} holds no texts", hint="only .txt and .jsonl files are read from a folder")
    return texts


def read_text_file(path: Path, field: str = FIELD) -> TextFile:
    """Read a file; each record's `field` if it is a .jsonl file.

    Raises:
        InputError: the file cannot be read, expands to too much (see read_blocks), is binary or is not UTF-8 (with the
            byte), or a record has no text (with the line).
    """
    try:
        data = b"".join(read_blocks(path))
    except DAMAGED as error:
        raise damage(path, error) from error
    text = _decode(path, data)
    is_records = plain_name(path).endswith(JSON_LINES)
    documents = tuple(_records(path, text, field)) if is_records else (text,)
    return TextFile(path, documents, hashlib.sha256(data).hexdigest())


def _decode(path: Path, data: bytes) -> str:
    zero = data.find(b"\0")
    try:
        # "utf-8-sig" would not count the byte order mark in the position of an error.
        text = data.decode("utf-8").removeprefix("\ufeff")
        wrong = len(data)
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if 0 <= zero < wrong:
        raise InputError(f"{path}: binary, not text (byte {zero} is zero)")
    if wrong < len(data):
        raise InputError(f"{path}: not valid UTF-8 at byte {wrong}")
    return text


def _records(path: Path, text: str, field: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not valid JSON: {error}") from error
        found = record.get(field) if isinstance(record, dict) else None
        if not isinstance(found, str):
            raise InputError(f"{path}:{number}: no text under {field!r}", code="text-field")
        if not is_unicode(found):
            raise InputError(f"{path}:{number}: half of a surrogate pair is not a character")
        yield found
