"""Files of rows, read one row at a time: text, JSON lines, CSV, TSV and Parquet, each also compressed.

A row that cannot be read is yielded as a row with an error.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, TypeAlias, get_args

from genlm.errors import InputError, UsageError
from genlm.formats.files import DAMAGED, STDIN, RemoteFile, damage, is_unicode, open_bytes, plain_name, read_blocks
from genlm.formats.folder import temporary_folder

Format: TypeAlias = Literal["txt", "jsonl", "csv", "tsv", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
EXTENSIONS: dict[str, Format] = {f".{name}": name for name in FORMATS} | {".ndjson": "jsonl", ".pq": "parquet"}
# The suffixes of compressed data without a name, by their first bytes.
MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
# Longer lines, rows and texts are errors: each is read as a whole, and a small compressed file may hold huge ones.
LONGEST = 1 << 24
# The most rows and bytes of Parquet that are read at once.
ROWS_AT_ONCE, BYTES_AT_ONCE = 1024, 1 << 26
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# Standard JSON, without NaN and infinity.
STRICT = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True)
class InputRow:
    """A row of a file: its values by column, or an error.

    `number` counts the file's rows from 1. `line` is the row's first line, from 1, or None in a file without lines.
    """

    source: str
    number: int
    line: int | None
    columns: Mapping[str, Any]
    error: str | None = None

    @property
    def place(self) -> str:
        """The file and the line, or the row."""
        return f"{self.source}, " + (f"row {self.number}" if self.line is None else f"line {self.line}")


@dataclass(frozen=True)
class InputFile:
    """A file of rows. `path` is where it is read from, `name` what messages call it."""

    name: str
    path: Path | RemoteFile
    format: Format
    separator: str | None = None

    def rows(self) -> Iterator[InputRow]:
        """Yield every row, from the first.

        Raises:
            InputError: the file cannot be read, is damaged, or has another format.
        """
        read: dict[Format, Callable[[InputFile], Iterator[InputRow]]] = {
            "txt": _read_text,
            "jsonl": _read_json_lines,
            "csv": _read_table,
            "tsv": _read_table,
            "parquet": _read_parquet,
        }
        return read[self.format](self)

    def columns(self) -> list[str]:
        """Return the columns that a table names, even if it has no rows; none for other formats.

        Raises InputError as `rows` does.
        """
        if self.format == "parquet":
            with _opened_parquet(self) as table:
                return list(table.schema_arrow.names)
        if self.format in ("csv", "tsv"):
            with _opened_table(self) as (header, _):
                return header
        return []


@contextmanager
def open_inputs(
    paths: Sequence[Path | RemoteFile], format: Format | None = None, separator: str | None = None
) -> Iterator[list[InputFile]]:
    """Open the files of rows at these paths. Inputs that can be read only once, such as a pipe, are copied to disk.

    Raises:
        UsageError: a file's format is unknown, a file is given twice, or a separator is empty or given for a file that
            is not text.
        InputError: a file does not exist.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for at, path in enumerate(paths) if path in paths[:at])
        raise UsageError(f"{twice} is given twice")
    formats = [format or _format_of(path) for path in paths]
    if separator == "":
        raise UsageError("the separator must not be empty")
    if separator is not None and set(formats) != {"txt"}:
        raise UsageError("a separator applies to text files only")
    with temporary_folder("rows") as folder:
        yield [
            InputFile(*_located(path, folder / str(number)), each, separator)
            for number, (path, each) in enumerate(zip(paths, formats, strict=True))
        ]


def _format_of(path: Path | RemoteFile) -> Format:
    if path == STDIN:
        raise UsageError(
            "standard input has no extension that tells its format",
            hint=f"the formats are {', '.join(FORMATS)}",
            code="input-format",
        )
    extension = Path(plain_name(path)).suffix.lower()
    if extension not in EXTENSIONS:
        found = f"unknown extension {extension}" if extension else "no extension that tells its format"
        raise UsageError(f"{path}: {found}", code="input-format")
    return EXTENSIONS[extension]


def _located(path: Path | RemoteFile, spare: Path) -> tuple[str, Path | RemoteFile]:
    """Return a file's name, and a path from which it can be read more than once.

    Bytes of a name that are not UTF-8 are written as escapes, because records and ids hold the name.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise UsageError("no prompts: standard input is closed")
        return "standard input", _kept(sys.stdin.buffer, spare)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file")
    name = str(path).encode(errors="backslashreplace").decode()
    if not path.is_file():
        with path.open("rb") as stream:
            return name, _kept(stream, spare)
    return name, path


def _kept(stream: BinaryIO, place: Path) -> Path:
    with place.open("wb") as file:
        shutil.copyfileobj(stream, file)
    with place.open("rb") as file:
        beginning = file.read(4)
    suffix = next((suffix for magic, suffix in MAGIC.items() if beginning.startswith(magic)), "")
    return place.rename(place.with_name(place.name + suffix))


@contextmanager
def _opened(file: InputFile) -> Iterator[BinaryIO]:
    try:
        with open_bytes(file.path) as stream:
            yield stream
    except DAMAGED as error:
        raise damage(Path(file.name), error) from error


# Lines.


def _read_text(file: InputFile) -> Iterator[InputRow]:
    """Yield a prompt for each line, or for each part between separators; blank ones are skipped."""
    pieces = _lines(file) if file.separator is None else _parts(file, file.separator.encode())
    for number, (line, data) in enumerate(pieces, 1):
        try:
            text = _decoded(data)
        except ValueError as error:
            yield InputRow(file.name, number, line, {}, str(error))
        else:
            if text.strip():
                yield InputRow(file.name, number, line, {"prompt": text})


def _read_json_lines(file: InputFile) -> Iterator[InputRow]:
    for line, data in _lines(file):
        try:
            text = _decoded(data)
            if text.strip():
                yield InputRow(file.name, line, line, _object(text))
        except ValueError as error:
            yield InputRow(file.name, line, line, {}, str(error))


def _object(text: str) -> dict[str, Any]:
    """Return a JSON object. Raise ValueError for anything else."""
    try:
        values = STRICT.decode(text)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    return values


def _decoded(data: bytes | None) -> str:
    """Return a line as text; None is one that is too long. Raise ValueError if it is not valid."""
    if data is None:
        raise ValueError(f"longer than {LONGEST >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 at byte {error.start}") from error


def _lines(file: InputFile) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its number, without its line break; None for one that is too long."""
    with _opened(file) as stream:
        for number, line in enumerate(_bounded_lines(stream), 1):
            if line is not None:
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            yield number, line


def _bounded_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    while line := stream.readline(LONGEST + 1):
        if len(line) <= LONGEST:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LONGEST)
        yield None


def _parts(file: InputFile, separator: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield each part between separators with its first line's number, without line breaks at its ends."""
    with _opened(file) as stream:
        line, held = 1, b""
        while block := stream.read(1 << 16):
            held += block.removeprefix(BYTE_ORDER_MARK) if line == 1 and not held else block
            *parts, held = held.split(separator)
            for part in parts:
                yield _part(part, line)
                line += part.count(b"\n") + separator.count(b"\n")
            if len(held) > 2 * LONGEST:
                raise InputError(f"{file.name}: no separator in {LONGEST >> 19} MiB after line {line}")
        yield _part(held, line)


def _part(part: bytes, line: int) -> tuple[int, bytes | None]:
    inner = part.lstrip(b"\r\n")
    first = line + part[: len(part) - len(inner)].count(b"\n")
    return first, inner.rstrip(b"\r\n") if len(inner) <= LONGEST else None


# Tables.


def _read_table(file: InputFile) -> Iterator[InputRow]:
    with _opened_table(file) as (header, records):
        for number, (line, fields) in enumerate(records, 1):
            columns, error = {}, None
            if isinstance(fields, csv.Error):
                error = f"not valid CSV: {fields}"
            elif len(fields) != len(header):
                error = f"{len(fields)} fields, but the header has {len(header)}"
            elif not all(map(is_unicode, fields)):
                error = "not valid UTF-8"
            else:
                columns = dict(zip(header, fields, strict=True))
            yield InputRow(file.name, number, line, columns, error)


@contextmanager
def _opened_table(file: InputFile) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str] | csv.Error]]]]:
    """Yield the header, and the records with the number of their first line."""
    with _opened(file) as stream, _long_fields():
        # Invalid UTF-8 becomes lone surrogates, which mark the row as bad.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        records = _records(file, text)
        _, header = next(records, (1, []))
        if isinstance(header, csv.Error):
            raise InputError(f"{file.name}: no header: {header}")
        if len(set(header)) < len(header) or not all(map(is_unicode, header)):
            raise InputError(f"{file.name}: a column name occurs twice, or is not valid UTF-8")
        yield header, records


def _records(file: InputFile, text: TextIO) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield each record, or what is wrong with it, with its first line's number, without blank lines.

    Raises:
        InputError: a record is too long. The start of the next one is unknown, because the quotes may be wrong.
    """
    line, size = 1, 0

    def lines() -> Iterator[str]:
        nonlocal size
        while part := text.readline(LONGEST + 1 - size):
            size += len(part)
            if size > LONGEST:
                raise InputError(
                    f"{file.name}, line {line}: a row longer than {LONGEST >> 20} MiB",
                    hint="perhaps a quote is not closed, or the file has no line breaks",
                )
            yield part

    reader = csv.reader(lines(), delimiter="\t" if file.format == "tsv" else ",", strict=True)
    while True:
        line, size = reader.line_num + 1, 0
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield line, error
            continue
        if fields is None:
            return
        if fields:
            yield line, fields


@contextmanager
def _long_fields() -> Iterator[None]:
    """Raise the csv module's limit for the length of a field, which all readers share."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(file: InputFile) -> Iterator[InputRow]:
    with _opened_parquet(file) as table:
        metadata = table.metadata
        size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        at_once = BYTES_AT_ONCE * metadata.num_rows // max(1, size)
        number = 0
        for batch in table.iter_batches(batch_size=min(max(1, at_once), ROWS_AT_ONCE)):
            for at in range(batch.num_rows):
                number += 1
                yield _parquet_row(file.name, number, batch, at)


@contextmanager
def _opened_parquet(file: InputFile) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    with tempfile.TemporaryFile() as plain:
        source: Any = file.path if isinstance(file.path, Path) else file.path.open("rb")
        if plain_name(file.path) != file.path.name:
            try:
                plain.writelines(read_blocks(file.path))
            except DAMAGED as error:
                raise damage(Path(file.name), error) from error
            source = plain
        try:
            schema = parquet.read_schema(source)
            texts = [each.name for each in schema if pyarrow.types.is_string(each.type)]
            # As a dictionary, a text that many rows share takes memory once.
            with parquet.ParquetFile(source, read_dictionary=texts) as table:
                yield table
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{file.name}: not a Parquet file that can be read: {error}") from error


def _parquet_row(name: str, number: int, batch: Any, at: int) -> InputRow:
    columns: dict[str, Any] = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value = columns[column] = _plain(values[at].as_py())
            if isinstance(value, str) and len(value) > LONGEST:
                return InputRow(name, number, None, {}, f"column {column!r} is longer than {LONGEST >> 20} MiB")
        # KeyError: a time zone that this machine does not know.
        except (UnicodeDecodeError, ValueError, OverflowError, KeyError) as error:
            return InputRow(name, number, None, {}, f"column {column!r} cannot be read: {error}")
    return InputRow(name, number, None, columns)


def _plain(value: Any) -> Any:
    """Return a Parquet value as JSON can represent it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, timedelta)):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


# Files that fit in memory, for which any bad row is an error.


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
                raise InputError(f"{row.place}: {row.error}")
            yield row


def _human_text(row: InputRow) -> str:
    if row.columns.keys() == {"prompt"}:
        return _text_of(row, "prompt")
    before = _text_of(row, "prompt") if "prompt" in row.columns else ""
    return before + _text_of(row, "text")


def _text_of(row: InputRow, column: str) -> str:
    value: Any = row.columns.get(column)
    if not isinstance(value, str):
        raise InputError(f"{row.place}: no text under {column!r}")
    return value
