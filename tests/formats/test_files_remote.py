"""Paths and URIs. Files at a URI are read like local ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from genlm.errors import InputError
from genlm.formats.files import RemoteFile, is_remote, read_place
from genlm.formats.rows import open_inputs


@pytest.mark.parametrize(
    "address", ["s3://bucket/a.txt", "gs://bucket", "file:///tmp/a", "file:///C:/a", "HDFS://h:1/a"]
)
def test_addresses(address: str) -> None:
    assert is_remote(address)


@pytest.mark.parametrize(
    "path", ["a.txt", "/a/b", "C:/a", r"C:\a", "C:a", "C://a", r"\\server\share", "a/b://c", "://"]
)
def test_paths_with_and_without_a_drive(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_rows_are_those_of_the_local_file(tmp_path: Path, suffix: str) -> None:
    data = b'{"id": 1, "prompt": "The king"}\n{torn\n{"prompt": "The fox"}\n'
    path = tmp_path / f"prompts.jsonl{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    with open_inputs([read_place(path.as_uri())]) as (far,), open_inputs([path]) as (near,):
        assert [row.columns for row in far.rows()] == [row.columns for row in near.rows()]
        assert isinstance(far.path, RemoteFile)


def test_parquet(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"prompt": ["one", "two"]}), tmp_path / "a.parquet")
    with open_inputs([read_place((tmp_path / "a.parquet").as_uri())]) as (file,):
        assert [row.columns["prompt"] for row in file.rows()] == ["one", "two"]


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    place = read_place((tmp_path / "none.txt").as_uri())
    with pytest.raises(InputError, match="no such file"), open_inputs([place]):
        pass
