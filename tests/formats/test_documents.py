"""The files of a corpus, their documents, and their errors."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest
from support.driving import call

from genlm.errors import InputError
from genlm.formats import files
from genlm.formats.documents import find_files, read_text_file


def put(folder: Path, **files: str | bytes) -> Path:
    """Write files by their names, with `__` for a dot. Return the folder."""
    for name, contents in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return folder


def test_a_folder_is_searched_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    put(tmp_path, b__txt="b", a__jsonl="{}", c__md="no", __hidden__txt="no")
    (tmp_path / ".hidden").mkdir()
    put(tmp_path / "deep", d__txt__gz=b"")
    put(tmp_path / ".hidden", copy__txt="no")
    found = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path])]
    assert found == ["a.jsonl", "b.txt", "deep/d.txt.gz"]


def test_each_file_is_read_once_whatever_its_extension(tmp_path: Path) -> None:
    put(tmp_path, a__txt="a", notes__md="b")
    sources = [tmp_path / "notes.md", tmp_path, tmp_path / "a.txt"]
    assert [path.name for path in find_files(sources)] == ["notes.md", "a.txt"]


def test_files_in_the_output_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    put(tmp_path, a__txt="a")
    put(tmp_path / "model", log__jsonl="{}")
    assert find_files([tmp_path], without=tmp_path / "model") == [tmp_path / "a.txt"]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    file = read_text_file(put(tmp_path, a__txt="狐\r\n\n") / "a.txt")
    assert (file.documents, file.num_bytes, file.is_records) == (("狐\r\n\n",), 6, False)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert read_text_file(put(tmp_path, a__txt=b"\xef\xbb\xbffox") / "a.txt").documents == ("fox",)


def test_json_lines_give_the_field_of_each_record(tmp_path: Path) -> None:
    put(tmp_path, a__jsonl='{"text": "fox\\n", "body": "x"}\n\n{"text": "\\u2028king", "body": "y"}\n')
    assert read_text_file(tmp_path / "a.jsonl").documents == ("fox\n", "\u2028king")
    assert read_text_file(tmp_path / "a.jsonl", "body").documents == ("x", "y")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_a_decompression_bomb_is_an_error(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 4 << 20)
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"x" * (200 << 20), 9))
    tracemalloc.start()
    done = call("train", path, "-o", tmp_path / "model")
    assert (done.code, done.error()) == (1, f"{path} expands to more than {path.stat().st_size * 100 >> 20} MiB")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(b"x" * (3 << 20), 9))
    assert read_text_file(put(tmp_path, b__txt__gz=path.read_bytes()) / "b.txt.gz").num_bytes == 3 << 20


def test_a_compressed_file_is_the_same_as_the_plain_one(tmp_path: Path) -> None:
    plain = read_text_file(put(tmp_path, a__jsonl='{"text": "fox"}') / "a.jsonl")
    packed = read_text_file(put(tmp_path, b__jsonl__gz=gzip.compress(b'{"text": "fox"}')) / "b.jsonl.gz")
    assert packed.documents == plain.documents
    assert packed.digest == plain.digest


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder: .*gone"):
        find_files([tmp_path / "gone"])


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no texts"):
        find_files([tmp_path])


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.txt", b"fox \xff", r"a\.txt: not valid UTF-8 at byte 4"),
        ("a.txt", b"\xef\xbb\xbffox \xff", r"a\.txt: not valid UTF-8 at byte 7"),
        ("a.txt", b"\x7fELF\0\xff", r"a\.txt: binary, not text \(byte 4 is zero\)"),
        ("a.txt", b"\xff\0", r"a\.txt: not valid UTF-8 at byte 0"),
        ("a.txt.gz", gzip.compress(b"fox \xff", mtime=0), r"a\.txt\.gz: not valid UTF-8 at byte 4"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz: cannot be read"),
        ("a.txt.gz", gzip.compress(b"fox" * 100, mtime=0)[:-12], r"a\.txt\.gz: cannot be read"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n{"body": "b"}', r"a\.jsonl:3: no text under 'text'"),
        ("a.jsonl", b'["text"]', r"a\.jsonl:1: no text under 'text'"),
        ("a.jsonl", b'{"text": 3}', r"a\.jsonl:1: no text under 'text'"),
        ("a.jsonl", b'{"text": "\\ud83e"}', r"a\.jsonl:1: half of a surrogate pair"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_place(
    name: str, contents: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(InputError, match=message):
        read_text_file(tmp_path / name)
