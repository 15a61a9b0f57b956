"""Prompts and human texts that fit in memory: all rows of a file at once. Any bad row is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genlm.errors import InputError
from genlm.formats.compressed import plain_name
from genlm.formats.rows import EXTENSIONS, InputRow, open_inputs


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file: its lines, or the column `prompt` of JSON lines, CSV, TSV or Parquet.

    A file with an unknown extension is read as text, and so is standard input, `-`.

    Raises:
        InputError: the file cannot be read or has no prompts, or a row is bad (the first one is reported).
    """
    found = tuple(_text_of(row, "prompt") for row in _rows(path))
    if not found:
        raise InputError(f"{path} holds no prompt")
    return found


def read_human_texts(path: Path) -> tuple[str, ...]:
    """Return the texts of a file: its lines, or the column `text`, after that of the column `prompt` if there is one.

    Raises:
        InputError: see `read_prompts`.
    """
    found = tuple(text for row in _rows(path) if (text := _human_text(row)))
    if not found:
        raise InputError(f"{path} holds no text")
    return found


def _rows(path: Path) -> Iterator[InputRow]:
    is_known = Path(plain_name(path)).suffix.lower() in EXTENSIONS
    with open_inputs([path], None if is_known else "txt") as (file,):
        for row in file.rows():
            if row.error is not None:
                raise InputError(f"{_place(row)}: {row.error}")
            yield row


def _human_text(row: InputRow) -> str:
    if row.columns.keys() == {"prompt"}:
        return _text_of(row, "prompt")
    before = _text_of(row, "prompt") if "prompt" in row.columns else ""
    return before + _text_of(row, "text")


def _text_of(row: InputRow, column: str) -> str:
    value: Any = row.columns.get(column)
    if not isinstance(value, str):
        raise InputError(f"{_place(row)}: no text under {column!r}")
    return value


def _place(row: InputRow) -> str:
    return f"{row.source}, " + (f"row {row.number}" if row.line is None else f"line {row.line}")
