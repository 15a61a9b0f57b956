"""The texts of a run: what a document is, and which of them are held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from genlm.errors import InputError, UsageError
from genlm.formats.documents import TextFile, find_files, read_text_file

Per: TypeAlias = Literal["line", "file"]
# A corpus below this many bytes is learned line by line, and by heart.
SMALL = 10_000
# A corpus below this many bytes has nothing to spare to be held out.
SPARE = 100_000
SHARE = 0.05
# Whole documents are held out where that many would be.
WHOLE_DOCUMENTS = 2


@dataclass(frozen=True)
class TextSource:
    """Where the texts of a run come from, and how they are taken.

    `per` None means: a line of a small corpus, a file of a larger one. `share` is held out where there is no `valid`;
    None means: a twentieth, or nothing of a corpus that has nothing to spare.
    """

    corpus: tuple[str, ...]
    valid: tuple[str, ...] = ()
    share: float | None = None
    per: Per | None = None
    field: str = "text"


@dataclass(frozen=True)
class Texts:
    """Documents to train on and documents held out. `fingerprint` changes with any of them."""

    documents: tuple[str, ...]
    held_out: tuple[str, ...]
    num_files: int
    per: Per

    @property
    def num_bytes(self) -> int:
        """Of the documents to train on, in UTF-8."""
        return count_bytes(self.documents)

    @property
    def is_small(self) -> bool:
        """Whether they can be learned by heart."""
        return self.num_bytes < SMALL

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of all documents."""
        digest = hashlib.sha256()
        for documents in (self.documents, self.held_out):
            digest.update(f"{len(documents)} ".encode())
            for text in map(str.encode, documents):
                digest.update(f"{len(text)} ".encode() + text)
        return digest.hexdigest()


def count_bytes(documents: Iterable[str]) -> int:
    """The length of documents in UTF-8."""
    return sum(len(document.encode()) for document in documents)


def gather(source: TextSource, seed: int, out: Path | None = None) -> Texts:
    """Read all texts, but for those in `out`; where none are named as held out, `seed` decides which of many are.

    Raises:
        InputError: a file that cannot be used, no text at all, or a held-out file that is trained on, too.
        UsageError: a share that makes no sense.
    """
    if source.valid and source.share is not None:
        raise UsageError("held-out files and a share to hold out cannot be combined")
    files = [read_text_file(path, source.field) for path in find_files(map(Path, source.corpus), out)]
    valid = [read_text_file(path, source.field) for path in find_files(map(Path, source.valid), out)]
    _check_apart(files, valid)
    per: Per = source.per or ("line" if sum(file.num_bytes for file in files) < SMALL else "file")
    documents, held_out = _documents(files, per), _documents(valid, per)
    if not documents:
        raise InputError("the corpus is empty")
    if source.valid:
        if not held_out:
            raise InputError("the held-out text is empty")
    else:
        documents, held_out = _split(documents, source.share, seed)
    return Texts(tuple(documents), tuple(held_out), len(files), per)


def _check_apart(files: Sequence[TextFile], valid: Sequence[TextFile]) -> None:
    trained = {file.digest: file.path for file in files}
    for file in valid:
        same = trained.get(file.digest)
        if same is not None:
            what = "trained on, too" if same.resolve() == file.path.resolve() else f"the same as {same}, trained on"
            raise InputError(f"{file.path}: held out, and {what}", hint="a loss on text that was learned says nothing")


def _documents(files: Iterable[TextFile], per: Per) -> list[str]:
    parts = (
        part
        for file in files
        for document in file.documents
        for part in (_lines(document) if per == "line" and not file.is_records else [document])
    )
    return [part for part in parts if part.strip()]


def _lines(document: str) -> list[str]:
    return [line.removesuffix("\r") for line in document.split("\n")]


def _split(documents: list[str], share: float | None, seed: int) -> tuple[list[str], list[str]]:
    """Hold a share out: whole documents where there are many, else the end of each, from a new line where it can be."""
    if share is None:
        share = SHARE if count_bytes(documents) >= SPARE else 0.0
    if not 0 <= share < 1:
        raise UsageError(f"the share to hold out must be at least 0 and below 1, not {share}")
    if share == 0:
        return documents, []
    count = min(round(share * len(documents)), len(documents) - 1)
    if count >= WHOLE_DOCUMENTS:
        chosen = set(random.Random(seed).sample(range(len(documents)), count))
        kept = [document for place, document in enumerate(documents) if place not in chosen]
        return kept, [documents[place] for place in sorted(chosen)]
    pairs = [_cut(document, share) for document in documents]
    kept, held_out = ([part for part in parts if part.strip()] for parts in zip(*pairs, strict=True))
    if not kept or not held_out:
        raise InputError("the corpus is too short to hold part of it out", code="corpus-too-short")
    return kept, held_out


def _cut(document: str, share: float) -> tuple[str, str]:
    limit = round(len(document) * (1 - share))
    at = document.find("\n", limit, len(document) - 1) + 1 or limit
    return document[:at], document[at:]
