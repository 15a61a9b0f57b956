"""Rows and records of batches, as files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from pyarrow import parquet

from genlm.model.fingerprint import fingerprinted
from genlm.model.source import find_model

Record = dict[str, Any]
WORDS = ("Once upon a time", "The king", "fox", "Who goes there?", "naïve café", "The wolf said", "Hans")


def rows(count: int = 14) -> list[Record]:
    """Return rows with prompts of several lengths."""
    return [{"id": f"row {number}", "prompt": " ".join(WORDS[: 1 + number % 7])} for number in range(count)]


def write_lines(path: str | Path, *objects: Record | str) -> None:
    """Write objects as JSON lines, and strings unchanged."""
    lines = (each if isinstance(each, str) else json.dumps(each) for each in objects)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def read_records(path: str | Path = "out.jsonl") -> list[Record]:
    """Return the objects of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def read_table(path: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV or Parquet file."""
    if path.endswith(".csv"):
        return list(csv.DictReader(io.StringIO(Path(path).read_text(), newline="")))
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def texts(records: list[Record]) -> list[list[str]]:
    """Return the texts of each record's completions."""
    return [[completion["text"] for completion in record["completions"]] for record in records]


def fingerprint_of(model: Path) -> str | None:
    """Return the fingerprint of a model's folder."""
    return fingerprinted(find_model(str(model))).fingerprint
