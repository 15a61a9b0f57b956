"""Files that may be compressed, read as if they were not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pytest

from genlm.errors import InputError
from genlm.formats.compressed import DAMAGED, damage, open_bytes, plain_name

TEXT = "Es war einmal, 从前, once\n".encode() * 20_000


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, "zstd", asbytes=True))


PACKED = {".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_files_read_as_the_text_in_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tales.txt{suffix}"
    path.write_bytes(PACKED[suffix](TEXT))
    with open_bytes(path) as file:
        assert file.readline() == TEXT.splitlines(keepends=True)[0]
        assert file.read() == TEXT[len(TEXT) // 20_000 :]


@pytest.mark.parametrize("suffix", PACKED)
def test_files_compressed_one_after_the_other_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tales.txt{suffix}"
    path.write_bytes(PACKED[suffix](b"one ") + PACKED[suffix](b"two"))
    with open_bytes(path) as file:
        assert file.read() == b"one two"


def test_other_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "tales.txt"
    path.write_bytes(TEXT)
    with open_bytes(path) as file:
        assert file.read() == TEXT


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("broken", ["cut off", "something else"])
def test_a_damaged_file_shows_while_it_is_read(tmp_path: Path, suffix: str, broken: str) -> None:
    path = tmp_path / f"tales.txt{suffix}"
    path.write_bytes(PACKED[suffix](TEXT)[:50] if broken == "cut off" else b"plain words, forty bytes of them or so")
    with open_bytes(path) as file, pytest.raises(DAMAGED) as raised:
        file.read()
    assert str(damage(path, raised.value)).startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".zst"])
def test_a_missing_file_is_an_error(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match=r"tales.*: No such file or directory"):
        open_bytes(tmp_path / f"tales{suffix}")


@pytest.mark.parametrize(
    ("name", "plain"), [("a.jsonl.gz", "a.jsonl"), ("a.txt.ZST", "a.txt"), ("a.csv", "a.csv"), ("b.gz", "b")]
)
def test_the_format_of_a_compressed_file_is_told_by_the_name_without_its_suffix(name: str, plain: str) -> None:
    assert plain_name(Path("folder") / name) == plain
