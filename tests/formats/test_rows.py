"""Files of rows: every format, compressed or not, with bad rows as data and memory that stays flat."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from support.driving import piped

from genlm.errors import InputError, UsageError
from genlm.formats import rows
from genlm.formats.rows import Format, InputRow, open_inputs

# Python's message for a number that is too long; 3.10 leaves the word out.
DIGITS = " digits" if sys.version_info >= (3, 11) else ""
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\x00\n\r"), min_size=1).filter(str.strip)


def read(path: Path, format: Format | None = None, separator: str | None = None) -> list[InputRow]:
    with open_inputs([path], format, separator) as (file,):
        return list(file.rows())


def values(found: Iterable[InputRow]) -> list[dict[str, Any]]:
    found = list(found)
    assert [row.error for row in found] == [None] * len(found)
    return [dict(row.columns) for row in found]


def prompts(found: Iterable[InputRow]) -> list[str]:
    return [each["prompt"] for each in values(found)]


def places(found: Iterable[InputRow]) -> list[tuple[int, int | None]]:
    return [(row.number, row.line) for row in found]


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# Text.


def test_each_line_of_text_is_a_prompt_unless_it_is_blank(tmp_path: Path) -> None:
    found = read(write(tmp_path, "a.txt", " one \n\n  \r\ntwo\tx\r\nthree"))
    assert prompts(found) == [" one ", "two\tx", "three"]
    assert places(found) == [(1, 1), (4, 4), (5, 5)]


def test_a_separator_allows_prompts_of_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "\none\nstill one\n\n---\ntwo\n---\n\n---\nthree\n")
    found = read(path, separator="---\n")
    assert prompts(found) == ["one\nstill one", "two", "three"]
    assert places(found) == [(1, 2), (2, 6), (4, 10)]


def test_a_separator_may_span_two_blocks(tmp_path: Path) -> None:
    parts = ["a" * 65_530 + str(number) for number in range(4)]
    assert prompts(read(write(tmp_path, "a.txt", "<|end|>".join(parts)), separator="<|end|>")) == parts


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_dropped(tmp_path: Path, name: str) -> None:
    data = {"a.txt": "fox\n", "a.jsonl": '{"prompt": "fox"}\n', "a.csv": "prompt\nfox\n"}[name]
    assert prompts(read(write(tmp_path, name, b"\xef\xbb\xbf" + data.encode()))) == ["fox"]


# JSON lines.


def test_objects_of_json_lines(tmp_path: Path) -> None:
    found = read(write(tmp_path, "a.jsonl", '{"prompt": "x", "n": [1, {"a": null}]}\n\n{"prompt": "\\u00e9"}'))
    assert values(found) == [{"prompt": "x", "n": [1, {"a": None}]}, {"prompt": "é"}]
    assert places(found) == [(1, 1), (3, 3)]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"prompt": "x"', "not valid JSON: Expecting ',' delimiter: line 1 column 15 (char 14)"),
        (b"nope", "not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'["x"]', "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"prompt": NaN}', "not valid JSON: NaN is not a JSON number"),
        (b'{"prompt": "\xff"}', "not valid UTF-8 at byte 12"),
        (b"[" * 100_000, "the JSON is nested too deeply"),
        (
            b'{"n": ' + b"1" * 5000 + b"}",
            f"not valid JSON: Exceeds the limit (4300{DIGITS}) for integer string conversion",
        ),
    ],
    ids=["cut", "nothing", "list", "text", "nan", "utf-8", "deep", "digits"],
)
def test_a_line_that_is_not_an_object_is_a_row_with_an_error(tmp_path: Path, line: bytes, error: str) -> None:
    found = read(write(tmp_path, "a.jsonl", b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n'))
    assert [row.columns.get("prompt") for row in found] == ["a", None, "b"]
    assert (found[1].line, found[1].columns) == (2, {})
    assert str(found[1].error).startswith(error)


# CSV and TSV.


def test_csv_with_quotes_and_line_breaks_in_fields(tmp_path: Path) -> None:
    found = read(write(tmp_path, "a.csv", 'id,prompt\r\n1,"a ""fox"",\nand more"\r\n\r\n2,\r\n3,x\r\n'))
    assert values(found) == [
        {"id": "1", "prompt": 'a "fox",\nand more'},
        {"id": "2", "prompt": ""},
        {"id": "3", "prompt": "x"},
    ]
    assert [row.number for row in found] == [1, 2, 3]
    assert found[0].line == 2
    assert found[2].line == 6


def test_tsv(tmp_path: Path) -> None:
    assert values(read(write(tmp_path, "a.tsv", "id\tprompt\n1\ta, b\n"))) == [{"id": "1", "prompt": "a, b"}]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"1,2,3", "3 fields, but the header has 2"),
        (b"1", "1 fields, but the header has 2"),
        (b"1,\xff", "not valid UTF-8"),
        (b'1,"a"b', "not valid CSV: ',' expected after '\"'"),
    ],
)
def test_a_bad_row_of_a_table_is_a_row_with_an_error(tmp_path: Path, line: bytes, error: str) -> None:
    found = read(write(tmp_path, "a.csv", b"id,prompt\n1,a\n" + line + b"\n3,c\n"))
    assert [row.columns.get("prompt") for row in found] == ["a", None, "c"]
    assert found[1].error == error
    assert places(found) == [(1, 2), (2, 3), (3, 4)]


def test_a_table_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a column name occurs twice"):
        read(write(tmp_path, "a.csv", "prompt,prompt\n1,2\n"))


def test_a_long_field_is_read_without_changing_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert prompts(read(write(tmp_path, "a.csv", "prompt\n" + "x" * 1_000_000 + "\n"))) == ["x" * 1_000_000]
    assert csv.field_size_limit() == before


# Parquet.


def parquet_file(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 5, 1, 12, 30)
    path = parquet_file(
        tmp_path / "a.parquet",
        prompt=["a", None],
        seed=pa.array([7, None]),
        score=[0.5, float("nan")],
        day=[day, None],
        price=[Decimal("1.50"), None],
        raw=[b"\x00\xff", None],
        tags=[["x", None], []],
        more=[{"k": day}, None],
    )
    first, second = values(read(path))
    assert first == {
        "prompt": "a",
        "seed": 7,
        "score": 0.5,
        "day": "2026-05-01T12:30:00",
        "price": "1.50",
        "raw": "AP8=",
        "tags": ["x", None],
        "more": {"k": "2026-05-01T12:30:00"},
    }
    assert second == dict.fromkeys(first) | {"tags": []}
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert places(read(path)) == [(1, None), (2, None)]


def test_a_parquet_text_that_is_not_utf8_is_a_row_with_an_error(tmp_path: Path) -> None:
    good, bad = b"fox", b"\xff\xfe"
    column = pa.StringArray.from_buffers(
        3, pa.array([0, 3, 5, 8], pa.int32()).buffers()[1], pa.py_buffer(good + bad + good)
    )
    found = read(parquet_file(tmp_path / "a.parquet", prompt=column))
    assert [row.columns.get("prompt") for row in found] == ["fox", None, "fox"]
    assert "column 'prompt' cannot be read" in str(found[1].error)


def test_a_time_zone_that_this_machine_does_not_know_is_a_row_with_an_error(tmp_path: Path) -> None:
    times = pa.array([0], pa.timestamp("s", tz="Mars/Olympus_Mons"))
    (found,) = read(parquet_file(tmp_path / "a.parquet", prompt=["fox"], at=times))
    assert found.columns == {}
    assert str(found.error).startswith("column 'at' cannot be read: ")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet: not a Parquet file that can be read"):
        read(write(tmp_path, "a.parquet", "prompt\nfox\n"))


# What a file is.


def table(columns: Sequence[str], each: Sequence[Sequence[str]], delimiter: str) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows([columns, *each])
    return stream.getvalue().encode()


def encoded(format: Format, texts: Sequence[str]) -> bytes:
    """Return a file of prompts in a format."""
    if format == "txt":
        return "\n".join(texts).encode()
    if format == "jsonl":
        return "\n".join(json.dumps({"prompt": text}) for text in texts).encode()
    if format == "parquet":
        stream = io.BytesIO()
        parquet.write_table(pa.table({"prompt": texts}), stream)
        return stream.getvalue()
    return table(["id", "prompt"], [[str(at), text] for at, text in enumerate(texts)], "," if format == "csv" else "\t")


def compressed(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return bytes(pa.compress(data, "zstd", asbytes=True))
    return gzip.compress(data) if suffix == ".gz" else data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("format", rows.FORMATS)
def test_every_format_may_be_compressed_or_piped_in(tmp_path: Path, format: Format, suffix: str) -> None:
    texts = ["Once upon a time", "naïve 🦊", " x"]
    data = compressed(encoded(format, texts), suffix)
    path = write(tmp_path, f"a.{format}{suffix}", data)
    assert prompts(read(path)) == texts
    assert prompts(read(write(tmp_path, f"other{suffix}", data), format)) == texts
    with piped(data), open_inputs([Path("-")], format) as (file,):
        assert file.name == "standard input"
        # More than once.
        assert prompts(file.rows()) == prompts(file.rows()) == texts


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_truncated_compressed_file_is_an_error_at_its_end(tmp_path: Path, suffix: str) -> None:
    data = compressed(encoded("txt", ["fox"] * 100_000), suffix)
    path = write(tmp_path, f"a.txt{suffix}", data[: len(data) // 2])
    with pytest.raises(InputError, match=r"a\.txt.* cannot be read"):
        read(path)


def test_invalid_inputs_are_refused(tmp_path: Path) -> None:
    text = write(tmp_path, "a.txt", "fox\n")
    cases: list[tuple[list[Path], type[Exception], str]] = [
        ([tmp_path / "none.txt"], InputError, "no such file"),
        ([tmp_path], UsageError, "no extension that tells its format"),
        ([write(tmp_path, "a.doc", "")], UsageError, "unknown extension .doc"),
        ([text, text], UsageError, "given twice"),
        ([Path("-")], UsageError, "standard input has no extension"),
    ]
    for paths, kind, message in cases:
        with pytest.raises(kind, match=message), open_inputs(paths):
            pass
    with pytest.raises(UsageError, match="text files only"), open_inputs([write(tmp_path, "a.csv", "")], None, "--"):
        pass
    with pytest.raises(InputError, match="is a folder"), open_inputs([tmp_path], "txt"):
        pass


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path, name, "")) == []


@pytest.mark.parametrize("format", ["txt", "jsonl"])
def test_a_line_that_is_too_long_is_a_row_with_an_error(
    tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST", 1000)
    good = encoded(format, ["fox"])
    found = read(write(tmp_path, "a", good + b"\n" + b"x" * 5000 + b"\n" + good), format)
    assert [row.columns.get("prompt") for row in found] == ["fox", None, "fox"]
    assert str(found[1].error).startswith("longer than")


@pytest.mark.parametrize("format", ["csv", "tsv"])
@pytest.mark.parametrize(
    "long", [b"x" * 5000, b'"open\n' + b"fox\n" * 2000, b'"\n"%' * 2000], ids=["line", "quote", "row"]
)
def test_a_row_of_a_table_that_is_too_long_ends_the_file(
    tmp_path: Path, format: Format, long: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST", 1000)
    long = long.replace(b"%", b"," if format == "csv" else b"\t")
    path = write(tmp_path, "a", encoded(format, ["fox"]) + long + b"\nfox\n")
    with open_inputs([path], format) as (file,):
        found = file.rows()
        assert next(found).columns["prompt"] == "fox"
        with pytest.raises(InputError, match="a, line 3: a row longer than 0 MiB"):
            next(found)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="a, line 1: a row longer than"):
        read(path, format)


def test_a_text_of_parquet_that_is_too_long_is_a_row_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LONGEST", 1000)
    found = read(write(tmp_path, "a.parquet", encoded("parquet", ["fox", "x" * 1001, "x" * 1000])))
    assert [row.error for row in found] == [None, "column 'prompt' is longer than 0 MiB", None]


def test_a_parquet_file_whose_rows_share_a_text_takes_the_memory_of_one(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    shared = pa.DictionaryArray.from_arrays([0] * 500, ["x" * (1 << 22)])
    parquet.write_table(pa.table({"prompt": shared}), path, store_schema=False)
    assert path.stat().st_size < 1 << 20
    before, taken = pa.total_allocated_bytes(), []
    with open_inputs([path]) as (file,):
        for row in file.rows():
            assert len(row.columns["prompt"]) == 1 << 22
            taken.append(pa.total_allocated_bytes() - before)
    assert len(taken) == 500
    assert max(taken) < 64 << 20


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "a.tsv.gz"])
def test_a_decompression_bomb_takes_little_memory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST", 1 << 18)
    path = write(tmp_path, name, gzip.compress(b"x" * (64 << 20), 1))
    tracemalloc.start()
    with open_inputs([path]) as (file,):
        if ".txt" in name or ".jsonl" in name:
            assert [str(row.error)[:11] for row in file.rows()] == ["longer than"]
        else:
            with pytest.raises(InputError, match="a row longer than"):
                list(file.rows())
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("format", rows.FORMATS)
def test_memory_stays_flat_however_large_the_file(tmp_path: Path, format: Format) -> None:
    def peak(count: int) -> int:
        path = write(
            tmp_path, f"{count}.{format}", encoded(format, [f"{number} " + "fox " * 50 for number in range(count)])
        )
        with open_inputs([path]) as (file,):
            tracemalloc.start()
            assert sum(1 for _ in file.rows()) == count
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most

    peak(1500)
    assert peak(6000) < 1.5 * peak(1500)


# Whatever the texts.


@given(st.lists(LINE))
def test_any_lines_are_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.txt"
    path.write_bytes("\n".join(texts).encode())
    assert prompts(read(path)) == texts


@given(st.lists(TEXT), st.sampled_from(["jsonl", "csv", "tsv", "parquet"]))
def test_any_texts_are_read_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], format: Format) -> None:
    path = tmp_path_factory.mktemp("any") / f"a.{format}"
    path.write_bytes(encoded(format, texts))
    assert prompts(read(path)) == texts


@given(st.binary(max_size=200), st.sampled_from(["txt", "jsonl", "csv", "tsv"]))
def test_no_bytes_make_a_reader_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes, format: Format) -> None:
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(data)
    # A table may have no header that makes sense.
    refused = contextlib.suppress(InputError) if format in ("csv", "tsv") else contextlib.nullcontext()
    with refused:
        for row in read(path, format):
            assert row.error is None or row.columns == {}
            assert row.line is not None
            assert row.line >= 1
