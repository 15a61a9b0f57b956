"""Records of a batch as a table: CSV or Parquet, one row per record. Records are read twice and never all in memory."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeAlias

from genlm.errors import UsageError
from genlm.formats.output import csv_safe
from genlm.records.batch import BatchRecord

Records: TypeAlias = Callable[[], Iterable[BatchRecord]]

CSV, PARQUET, LINES = ".csv", ".parquet", (".jsonl", ".ndjson")
# The columns of every table after those of the input and the completions.
SETTINGS = ("model", "revision", "dtype", "strategy", "seed", "max_new_tokens")
RESERVED = {"id", *SETTINGS, "completion", "completions", "finish_reason", "logprob", "made_by", "error"}
# The column of the prompts; the second name if the input has another column named `prompt`.
PROMPT, OTHER_PROMPT = "prompt", "model_prompt"
ROWS_AT_ONCE = 1024
LARGEST_INTEGER = 2**63
CRLF = "\r\n"
# Python 3.10 takes a NUL in a field for the escape character if none is set. This one cannot occur in UTF-8.
ESCAPE = None if sys.version_info >= (3, 11) else "\udfff"


@dataclass
class TableLayout:
    """The kind of values that each column holds, and the most completions that a record has."""

    kinds: dict[str, str] = field(default_factory=dict)
    completions: int = 1

    @classmethod
    def of(cls, records: Iterable[BatchRecord]) -> TableLayout:
        """Return the layout of a table of these records."""
        layout = cls()
        for record in records:
            layout.completions = max(layout.completions, len(record.completions))
            layout._note("id", record.id)
            layout._note("seed", record.seed)
            for name, value in record.columns.items():
                layout._note(f"columns.{name}", value)
        return layout

    @property
    def prompt(self) -> str:
        """The name of the column of the prompts that ran. A column of the input keeps its name."""
        return OTHER_PROMPT if f"columns.{PROMPT}" in self.kinds else PROMPT

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the input, each with its name in the table."""
        reserved = RESERVED | {self.prompt}
        names = (name.removeprefix("columns.") for name in self.kinds if name.startswith("columns."))
        return {name: f"columns.{name}" if name in reserved or name[:11] == "completion_" else name for name in names}

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


def write_table(output: Path, records: Records, stream: BinaryIO, *, safe: bool = False) -> None:
    """Write records to a stream in the format of the table `output`. For `safe` see write_csv."""
    if output.suffix.lower() == CSV:
        write_csv(records, stream, safe=safe)
    else:
        write_parquet(records, stream)


def is_table(output: Path, *, safe: bool = False) -> bool:
    """Return whether an output is a table and not JSON lines.

    Raises:
        UsageError: it is neither, or it is not CSV and `safe` is set.
    """
    suffix = output.suffix.lower()
    if suffix not in (CSV, PARQUET, *LINES):
        raise UsageError(f"{output}: the result is .jsonl, .csv or .parquet, not {suffix or 'without an extension'}")
    if safe and suffix != CSV:
        raise UsageError(f"{output} is not CSV: only CSV has texts that a spreadsheet may run", code="csv-safe")
    return suffix not in LINES


def write_csv(records: Records, stream: BinaryIO, *, safe: bool = False) -> None:
    """Write CSV in UTF-8, with columns for each completion. Lists and objects are JSON.

    With `safe`, texts that a spreadsheet may run as formulas get a single quote before them.
    """
    layout = TableLayout.of(records())
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    suffixes = [f"_{number}" for number in range(1, layout.completions + 1)] if layout.completions > 1 else [""]
    results = [f"{name}{suffix}" for suffix in suffixes for name in ("completion", "finish_reason", "logprob")]
    writer = csv.writer(_NewlineWriter(text), lineterminator=CRLF, escapechar=ESCAPE)

    def write(cells: Iterable[Any]) -> None:
        writer.writerow([csv_safe(cell) if safe and isinstance(cell, str) else cell for cell in cells])

    write(["id", layout.prompt, *layout.columns.values(), *results, *SETTINGS, "made_by", "error"])
    for record in records():
        write(_csv_row(record, layout))
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


def _csv_row(record: BatchRecord, layout: TableLayout) -> Iterator[Any]:
    yield from (record.id, record.prompt)
    yield from (_csv_value(record.columns.get(name)) for name in layout.columns)
    for completion in record.completions:
        yield from (completion.text, completion.finish_reason, completion.logprob)
    yield from [None] * (3 * (layout.completions - len(record.completions)))
    settings = record.settings()
    yield from (settings[name] for name in SETTINGS)
    yield str(record.made_by)
    yield record.error.message if record.error else None


def _csv_value(value: Any) -> Any:
    is_plain = value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool))
    return value if is_plain else _as_json(value)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def write_parquet(records: Records, stream: BinaryIO) -> None:
    """Write Parquet: completions as a list of structures, the columns of the input in types that fit their values."""
    import pyarrow as pa
    from pyarrow import parquet

    layout = TableLayout.of(records())
    schema = _schema(layout)
    with parquet.ParquetWriter(pa.PythonFile(stream, mode="w"), schema, compression="zstd") as writer:
        rows = (_parquet_row(record, layout) for record in records())
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))


def _schema(layout: TableLayout) -> Any:
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
    made_by = pa.struct(dict.fromkeys(("genlm", "torch", "transformers"), pa.string()))
    error = pa.struct({"message": pa.string(), "file": pa.string(), "row": pa.int64(), "line": pa.int64()})
    columns = {own: types.get(layout.kinds[f"columns.{name}"], pa.string()) for name, own in layout.columns.items()}
    settings = dict.fromkeys(SETTINGS, pa.string()) | {
        "seed": types.get(layout.kinds.get("seed", "int"), pa.string()),
        "max_new_tokens": pa.int64(),
    }
    first = {"id": types.get(layout.kinds.get("id", "text"), pa.string()), layout.prompt: pa.string()}
    return pa.schema(
        {**first, **columns, "completions": pa.list_(completion), **settings, "made_by": made_by, "error": error}
    )


def _parquet_row(record: BatchRecord, layout: TableLayout) -> dict[str, Any]:
    columns = {
        own: _typed(record.columns.get(name), layout.kinds[f"columns.{name}"]) for name, own in layout.columns.items()
    }
    settings = {name: value for name, value in record.settings().items() if name in SETTINGS}
    values = record.to_dict()
    return {
        "id": _typed(record.id, layout.kinds["id"]),
        layout.prompt: record.prompt,
        **columns,
        "completions": values["completions"],
        **settings,
        "seed": _typed(record.seed, layout.kinds["seed"]),
        "made_by": values["made_by"],
        "error": values["error"],
    }


def _typed(value: Any, kind: str) -> Any:
    """Return a value as its column holds it: as text if the column mixes kinds of values."""
    return _as_json(value) if kind == "json" and not isinstance(value, (str, type(None))) else value
