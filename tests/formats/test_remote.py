"""What is a path, and what is an address."""

from __future__ import annotations

import pytest

from genlm.formats.remote import is_remote


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
