"""What became of the rows of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict


class RowError(TypedDict):
    """What is wrong with a row of a file. `row` counts its rows from 1; `line` is None in a file without lines."""

    message: str
    file: str
    row: int
    line: int | None


class BatchModel(TypedDict):
    """The model that made a record."""

    name: str
    revision: str | None
    dtype: str | None


class BatchRecord(TypedDict):
    """What became of a row of a batch: its completions, or an error. Plain data, as it is written.

    `completions` are as in the JSON of a generation, `strategy` is a spec; `columns` are the row's other columns.
    """

    id: str | int
    prompt: str | None
    completions: list[dict[str, Any]]
    model: BatchModel
    strategy: str
    seed: int
    max_new_tokens: int
    num_return_sequences: int
    stop: list[str]
    overflow: str
    deterministic: bool
    columns: dict[str, Any]
    error: RowError | None


class BatchCounts(NamedTuple):
    """How many rows a batch has, how many of them have a record, and how many of these an error."""

    rows: int
    done: int
    failed: int
