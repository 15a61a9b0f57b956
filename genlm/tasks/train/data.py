"""From the files of a corpus to batches: split it into documents, hold some out, cut rows of ids, and order them."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from genlm.errors import InputError, UsageError
from genlm.formats.documents import TextFile, find_files, read_text_file
from genlm.tasks.train.settings import SMALL

if TYPE_CHECKING:
    from torch import Generator, Tensor

Per: TypeAlias = Literal["line", "file"]
# The share of a corpus that is held out by default, and the size in bytes below which nothing is.
SHARE, SPARE = 0.05, 100_000
# If the share is at least this many documents, whole documents are held out.
WHOLE_DOCUMENTS = 2
# The target that cross_entropy ignores, after the end of a short row.
NO_TARGET = -100


@dataclass(frozen=True)
class TextSource:
    """Where the texts of a run come from.

    If `per` is None, a document is a line of a small corpus, and a file of a larger one. `share` is held out if `valid`
    is empty; None is a twentieth of the corpus, or nothing of a small one.
    """

    corpus: tuple[str, ...]
    valid: tuple[str, ...] = ()
    share: float | None = None
    per: Per | None = None
    field: str = "text"


@dataclass(frozen=True)
class Texts:
    """Documents to train on, and documents held out."""

    documents: tuple[str, ...]
    held_out: tuple[str, ...]
    num_files: int
    per: Per

    @cached_property
    def num_bytes(self) -> int:
        """The length in UTF-8 of the documents to train on."""
        return count_bytes(self.documents)

    @property
    def is_small(self) -> bool:
        """Whether each document is trained on separately."""
        return self.num_bytes < SMALL

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all documents."""
        digest = hashlib.sha256()
        for documents in (self.documents, self.held_out):
            digest.update(f"{len(documents)} ".encode())
            for text in map(str.encode, documents):
                digest.update(f"{len(text)} ".encode() + text)
        return digest.hexdigest()


def count_bytes(documents: Iterable[str]) -> int:
    """Return the length of documents in UTF-8."""
    return sum(len(document.encode()) for document in documents)


def read_texts(source: TextSource, seed: int, out: Path | None = None) -> Texts:
    """Read all texts except those in `out`. Without files to hold out, `seed` chooses the documents to hold out.

    Raises:
        InputError: a file cannot be used, there is no text, or a held-out file is trained on too.
        UsageError: the share to hold out is invalid.
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
            is_same = same.resolve() == file.path.resolve()
            problem = "both held out and trained on" if is_same else f"held out, but has the same contents as {same}"
            raise InputError(f"{file.path}: {problem}", hint="a loss on text that was trained on says nothing")


def _documents(files: Iterable[TextFile], per: Per) -> list[str]:
    found: list[str] = []
    for file in files:
        for document in file.documents:
            is_split = per == "line" and not file.is_records
            found += (line.removesuffix("\r") for line in document.split("\n")) if is_split else [document]
    return [document for document in found if document.strip()]


def _split(documents: list[str], share: float | None, seed: int) -> tuple[list[str], list[str]]:
    """Hold out a share: whole documents if there are many, otherwise the end of each, from a line break if possible."""
    if share is None:
        share = SHARE if count_bytes(documents) >= SPARE else 0.0
    if not 0 <= share < 1:
        raise UsageError(f"the share to hold out must be at least 0 and below 1, not {share}")
    if share == 0:
        return documents, []
    count = min(round(share * len(documents)), len(documents) - 1)
    if count >= WHOLE_DOCUMENTS:
        chosen = set(random.Random(seed).sample(range(len(documents)), count))
        kept = [document for index, document in enumerate(documents) if index not in chosen]
        return kept, [documents[index] for index in sorted(chosen)]
    pairs = [_cut(document, share) for document in documents]
    kept, held_out = ([part for part in parts if part.strip()] for parts in zip(*pairs, strict=True))
    if not kept or not held_out:
        raise InputError("the corpus is too short to hold part of it out", code="corpus-too-short")
    return kept, held_out


def _cut(document: str, share: float) -> tuple[str, str]:
    limit = round(len(document) * (1 - share))
    at = document.find("\n", limit, len(document) - 1) + 1 or limit
    return document[:at], document[at:]


class Windows:
    """Windows of `context + 1` ids over one long row. Each epoch cuts the row at a new offset."""

    def __init__(self, ids: Tensor, context: int, seed: int) -> None:
        self._ids, self._context, self._seed = ids, context, seed

    def epoch(self, number: int) -> list[Tensor]:
        """Return every window once, in an order that depends only on the number and the seed.

        All have the same length, unless there are too few ids for one; then the row is the only window.
        """
        import torch

        generator = _generator(self._seed, number)
        room = max(0, len(self._ids) - self._context - 1)
        offset = int(torch.randint(min(self._context, room + 1), (1,), generator=generator))
        starts = torch.arange(offset, offset + max(1, room - offset + 1), self._context)
        shuffled = starts[torch.randperm(len(starts), generator=generator)].tolist()
        return [self._ids[start : start + self._context + 1] for start in shuffled]


class Documents:
    """Each document as two rows, with and without an end of text before it, so a prompt works with and without one.

    No document is predicted from another, so the least possible loss is their entropy. A document longer than the
    context is cut.
    """

    def __init__(self, documents: Sequence[Sequence[int]], end: int, context: int, seed: int) -> None:
        import torch

        whole = [torch.tensor([*start, *ids, end]) for ids in documents for start in ([end], [])]
        self._rows = [row[at : at + context + 1] for row in whole for at in range(0, len(row) - 1, context)]
        self._seed = seed

    def entropy(self) -> float:
        """Return the least mean loss that a model can have, in nats a token.

        That is the entropy of the next token after each beginning that occurs in the rows.
        """
        followers: dict[tuple[int, ...], Counter[int]] = {}
        for row in (row.tolist() for row in self._rows):
            for at in range(1, len(row)):
                followers.setdefault(tuple(row[:at]), Counter())[row[at]] += 1
        counts = [(count, found.total()) for found in followers.values() for count in found.values()]
        return sum(-count * math.log(count / total) for count, total in counts) / sum(count for count, _ in counts)

    def epoch(self, number: int) -> list[Tensor]:
        """Return every row once, in an order that depends only on the number and the seed."""
        import torch

        order = torch.randperm(len(self._rows), generator=_generator(self._seed, number))
        return [self._rows[index] for index in order.tolist()]


Rows: TypeAlias = Windows | Documents


class Batches:
    """An endless sequence of batches of `size` rows, each with at most `length` tokens to predict.

    `epoch` and `at` are its position. `Batches` made with these continue from there.
    """

    def __init__(self, rows: Rows, batch_size: int, epoch: int = 0, at: int = 0) -> None:
        self.epoch, self.at = epoch, at
        self._rows = rows
        self._now = rows.epoch(epoch)
        self.length = max(map(len, self._now)) - 1
        # No batch contains a document twice.
        self.size = min(batch_size, len(self._now)) if isinstance(rows, Documents) else batch_size

    def take(self) -> tuple[Tensor, Tensor]:
        """Return the next rows as inputs and targets. Shape of each: (rows, longest row - 1)."""
        import torch

        rows = [self._next() for _ in range(self.size)]
        pad = torch.nn.utils.rnn.pad_sequence
        inputs = pad([row[:-1] for row in rows], batch_first=True)
        return inputs, pad([row[1:] for row in rows], batch_first=True, padding_value=NO_TARGET)

    def _next(self) -> Tensor:
        if self.at == len(self._now):
            self.epoch, self.at = self.epoch + 1, 0
            self._now = self._rows.epoch(self.epoch)
        self.at += 1
        return self._now[self.at - 1]


def _generator(seed: int, epoch: int) -> Generator:
    import torch

    return torch.Generator().manual_seed((seed << 20) + epoch)
