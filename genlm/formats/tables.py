"""Records of a batch as a table: CSV or Parquet, a row a record, read twice and never held."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO, TextIO, TypeAlias

Record: TypeAlias = Mapping[str, Any]
Records: TypeAlias = Callable[[], Iterable[Record]]

# The columns that every table has; `id` and `prompt` stand before those of the input, the rest behind them.
FIRST = ("id", "prompt")
SETTINGS = ("model", "revision", "dtype", "strategy", "seed", "max_new_tokens")
RESERVED = {*FIRST, *SETTINGS, "completion", "completions", "finish_reason", "logprob", "error"}
ROWS_AT_ONCE = 1024
LARGEST_INTEGER = 2**63
CRLF = "\r\n"
# Python 3.10 takes a NUL in a field for the escape character if none is set. This one cannot occur in UTF-8.
ESCAPE = None if sys.version_info >= (3, 11) else "\udfff"


@dataclass
class Shape:
    """The columns of the input with the kind of their values, and the most completions that a record has."""

    kinds: dict[str, str] = field(default_factory=dict)
    completions: int = 1

    @classmethod
    def of(cls, records: Iterable[Record]) -> Shape:
        """The shape of a table of these records."""
        shape = cls()
        for record in records:
            shape.completions = max(shape.completions, len(record["completions"]))
            for name in ("id", "seed"):
                shape._note(name, record[name])
            for name, value in record["columns"].items():
                shape._note(f"columns.{name}", value)
        return shape

    @property
    def columns(self) -> dict[str, str]:
        """The input's columns, each with its name in the table."""
        names = (name.removeprefix("columns.") for name in self.kinds if name.startswith("columns."))
        return {name: f"columns.{name}" if name in RESERVED or name[:11] == "completion_" else name for name in names}

    def _note(self, name: str, value: Any) -> None:
        kind, known = _kind(value), self.kinds.get(name)
        if known in (None, "null") or kind == known:
            self.kinds[name] = kind
        elif kind != "null":
            self.kinds[name] = "float" if {kind, known} == {"int", "float"} else "json"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) < LARGEST_INTEGER else "json"
    return "float" if isinstance(value, float) else "text" if isinstance(value, str) else "json"


def write_csv(records: Records, stream: BinaryIO) -> None:
    """Write CSV, UTF-8: the text of each completion in a column, and what is neither text nor number as JSON."""
    shape = Shape.of(records())
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
    several = shape.completions > 1
    suffixes = [f"_{number}" for number in range(1, shape.completions + 1)] if several else [""]
    made = [f"{name}{suffix}" for suffix in suffixes for name in ("completion", "finish_reason", "logprob")]
    writer = csv.writer(_NewlineWriter(text), lineterminator=CRLF, escapechar=ESCAPE)
    writer.writerow([*FIRST, *shape.columns.values(), *made, *SETTINGS, "error"])
    for record in records():
        writer.writerow(_csv_row(record, shape))
    text.flush()
    text.detach()


class _NewlineWriter:
    """Write each row with a newline instead of CRLF.

    Before Python 3.13, csv quotes a field with a carriage return only if the line terminator contains one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: str) -> int:
        return self._stream.write(row.removesuffix(CRLF) + "\n")


def _csv_row(record: Record, shape: Shape) -> Iterator[Any]:
    yield from (record[name] for name in FIRST)
    yield from (_cell(record["columns"].get(name)) for name in shape.columns)
    for completion in record["completions"]:
        yield from (completion["text"], completion["finish_reason"], completion["logprob"])
    yield from [None] * (3 * (shape.completions - len(record["completions"])))
    yield from _settings(record).values()
    yield record["error"]["message"] if record["error"] else None


def _settings(record: Record) -> dict[str, Any]:
    model = record["model"]
    return {"model": model["name"], "revision": model["revision"], "dtype": model["dtype"]} | {
        name: record[name] for name in SETTINGS[3:]
    }


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, float)) else _as_json(value)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_parquet(records: Records, stream: BinaryIO) -> None:
    """Write Parquet: completions as a list of structures, the input's columns in the types that hold their values."""
    import pyarrow as pa
    from pyarrow import parquet

    shape = Shape.of(records())
    schema = _schema(shape)
    with parquet.ParquetWriter(pa.PythonFile(stream, mode="w"), schema, compression="zstd") as writer:
        rows = (_parquet_row(record, shape) for record in records())
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))


def _schema(shape: Shape) -> Any:
    import pyarrow as pa

    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "null": pa.string()}
    completion = pa.struct(
        {
            "index": pa.int64(),
            "text": pa.string(),
            "token_ids": pa.list_(pa.int64()),
            "finish_reason": pa.string(),
            "logprob": pa.float64(),
        }
    )
    error = pa.struct({"message": pa.string(), "file": pa.string(), "row": pa.int64(), "line": pa.int64()})
    own = {mine: types.get(shape.kinds[f"columns.{name}"], pa.string()) for name, mine in shape.columns.items()}
    settings = dict.fromkeys(SETTINGS, pa.string()) | {
        "seed": types.get(shape.kinds.get("seed", "int"), pa.string()),
        "max_new_tokens": pa.int64(),
    }
    first = {"id": types.get(shape.kinds.get("id", "text"), pa.string()), "prompt": pa.string()}
    return pa.schema({**first, **own, "completions": pa.list_(completion), **settings, "error": error})


def _parquet_row(record: Record, shape: Shape) -> dict[str, Any]:
    row: dict[str, Any] = {name: _typed(record[name], shape.kinds.get(name, "text")) for name in FIRST}
    for name, mine in shape.columns.items():
        row[mine] = _typed(record["columns"].get(name), shape.kinds[f"columns.{name}"])
    settings = _settings(record)
    settings["seed"] = _typed(settings["seed"], shape.kinds["seed"])
    return {**row, "completions": record["completions"], **settings, "error": record["error"]}


def _typed(value: Any, kind: str) -> Any:
    """The value as its column has it: text where the values of a column are of several kinds."""
    if kind != "json" or value is None or isinstance(value, str):
        return value
    return _as_json(value)
