"""The records of a batch: one for each row of the input, with the settings that made it."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from genlm.decoding.completion import Completion
from genlm.records.generation import Overflow
from genlm.records.made_by import Versions
from genlm.records.serialize import as_line, from_builtins, from_line, to_builtins

# The first keys of a record's JSON; its provenance follows.
FIRST_KEYS = ("id", "prompt", "completions")
# How a record's JSON starts.
BEGINNING = b'{"id": '
# How it ends: with the CRC-32 of everything before this.
CHECKSUM = ', "checksum": "{:08x}"}}'


@dataclass(frozen=True)
class RowError:
    """What is wrong with a row of a file. `row` counts from 1; `line` is None in a file without lines."""

    message: str
    file: str
    row: int
    line: int | None

    @property
    def place(self) -> str:
        """The file and the line, or the row."""
        return f"{self.file}, row {self.row}" if self.line is None else f"{self.file}, line {self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True)
class BatchModel:
    """The model that made a record. `fingerprint` identifies the files of a model that is not from the Hub.

    `dtype` is None until the model is loaded, unless it was chosen.
    """

    name: str
    revision: str | None
    fingerprint: str | None
    dtype: str | None


@dataclass(frozen=True)
class Provenance:
    """Everything a completion depends on except its row. `strategy` is a spec."""

    model: BatchModel
    strategy: str
    seed: int
    max_new_tokens: int
    num_return_sequences: int
    stop: tuple[str, ...]
    overflow: Overflow
    deterministic: bool

    def settings(self) -> dict[str, Any]:
        """Return each setting under the name that messages and manifests use."""
        model = {
            "model": self.model.name,
            "revision": self.model.revision,
            "model_fingerprint": self.model.fingerprint,
            "dtype": self.model.dtype,
        }
        return model | {each.name: getattr(self, each.name) for each in fields(Provenance)[1:]}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provenance:
        """Return the provenance with these settings. Raise ValueError if one is missing or has the wrong type."""
        model = {
            "name": settings["model"],
            "revision": settings["revision"],
            "fingerprint": settings["model_fingerprint"],
            "dtype": settings["dtype"],
        }
        return from_builtins(cls, settings | {"model": model})


@dataclass(frozen=True, kw_only=True)
class BatchRecord(Provenance):
    """The result for one row of a batch: its completions, or an error.

    `made_by` are the versions that ran; the same row may have another completion with other ones. `columns` are the
    row's other columns.
    """

    id: str | int
    prompt: str | None
    completions: tuple[Completion, ...]
    made_by: Versions
    columns: dict[str, Any]
    error: RowError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON of the record holds, except the checksum. Traces are left out."""
        values: dict[str, Any] = to_builtins(self)
        for completion in values["completions"]:
            completion.pop("trace", None)
        return {key: values.pop(key) for key in FIRST_KEYS} | values

    def to_line(self) -> str:
        """Return the record as one line of JSON with a checksum, without a line break."""
        start = as_line(self.to_dict()).removesuffix("}")
        return start + CHECKSUM.format(zlib.crc32(start.encode()))

    @classmethod
    def from_line(cls, line: str | bytes) -> BatchRecord:
        """Return the record that a line of `to_line` holds.

        Raises:
            ValueError: any byte of the line has changed, or it was never a record.
        """
        return from_line(cls, check_line(line) + b"}")


def check_line(line: str | bytes) -> bytes:
    """Return the JSON of a record's line before its checksum. Raise ValueError if the checksum is wrong or missing."""
    data = (line.encode() if isinstance(line, str) else line).removesuffix(b"\n")
    size = len(CHECKSUM.format(0))
    start, end = data[:-size], data[-size:]
    if end != CHECKSUM.format(zlib.crc32(start)).encode():
        raise ValueError("the checksum is wrong or missing")
    return start


def looks_like_record(line: bytes) -> bool:
    """Return whether a line is a record, or was one before it was damaged in one place."""
    has_start = line.startswith(BEGINNING) or b'"completions": ' in line
    has_end = b'"checksum"' in line or re.search(rb'": "[0-9a-f]{8}"\}\n?$', line) is not None
    return has_start and has_end


class BatchCounts(NamedTuple):
    """How many rows a batch has, how many of them have a record, and how many records have an error."""

    rows: int
    done: int
    failed: int


@dataclass(frozen=True)
class ClusterState:
    """The progress of a batch on a cluster.

    `rows` is None until they are counted. `done` rows have a record; this run made `made` of those, with `tokens`
    tokens in `seconds` from the first record to the last. `busy` of the `workers` alive are making records. `errors`
    and `notices` are the new ones since the last look.
    """

    rows: int | None
    done: int
    made: int
    tokens: int
    seconds: float
    workers: int
    busy: int
    errors: list[RowError]
    notices: list[str] = field(default_factory=list)
