"""Texts from the command line, from standard input and from files, whole or line by line."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.systems import needs_unix

from genlm.errors import InputError, UsageError
from genlm.formats.files import STDIN
from genlm.formats.texts import Text, check_file, read_prompt_or_file, read_texts

LINES = "Once upon a time\n\nthe king\r\n狐"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return a function that puts bytes on standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return put


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_bytes(LINES.encode())
    return path


def test_a_file_gives_its_lines_without_line_breaks(lines: Path) -> None:
    assert list(read_texts(None, [lines], None)) == [
        Text("Once upon a time", str(lines), 1),
        Text("", str(lines), 2),
        Text("the king", str(lines), 3),
        Text("狐", str(lines), 4),
    ]


def test_a_file_as_a_whole_keeps_every_byte(lines: Path) -> None:
    assert list(read_texts(None, [lines], "file")) == [Text(LINES, str(lines))]


def test_files_are_read_in_order(lines: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert [text.source for text in read_texts(None, [lines, empty, lines], "file")] == [
        str(lines),
        str(empty),
        str(lines),
    ]
    assert [text.line for text in read_texts(None, [lines, empty, lines], "line")] == [1, 2, 3, 4] * 2


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_bytes("one\x0btwo\u2028three\rfour\n".encode())
    assert [text.text for text in read_texts(None, [path], "line")] == ["one\x0btwo\u2028three\rfour"]


@needs_unix("named pipes are no files")
def test_a_pipe_is_read_line_by_line_while_more_may_come(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    # For reading and writing: it neither waits for a reader nor ends before it is closed.
    pipe = os.open(path, os.O_RDWR)
    try:
        texts = read_texts(None, [path], "line")
        os.write(pipe, b"first\nsecond\n")
        assert next(texts) == Text("first", str(path), 1)
    finally:
        os.close(pipe)


def test_piped_text_is_one_text_or_its_lines(pipe: Callable[[bytes], None]) -> None:
    for per, expected in (("file", ["a\nb"]), (None, ["a\nb"]), ("line", ["a", "b"])):
        pipe(b"a\nb\n")
        assert [text.text for text in read_texts(None, [], per)] == expected  # type: ignore[arg-type]


def test_standard_input_can_be_one_of_the_files(lines: Path, pipe: Callable[[bytes], None]) -> None:
    pipe(b"piped\n")
    texts = list(read_texts(None, [STDIN, lines], None))
    assert texts[0] == Text("piped", "standard input", 1)
    assert len(texts) == 5
    with pytest.raises(UsageError, match="only once"):
        read_texts(None, [STDIN, STDIN], None)


def test_an_argument_is_one_text_or_its_lines() -> None:
    assert list(read_texts("a\nb", [], None)) == [Text("a\nb")]
    assert list(read_texts("a\nb", [], "line")) == [Text("a"), Text("b")]


def test_a_text_and_a_file_at_once_are_refused(lines: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        read_texts("a", [lines], None)
    with pytest.raises(UsageError, match="not both"):
        read_prompt_or_file("a", lines)


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 5])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xe7\x8b", b"\xe7\x8bx"])
def test_a_byte_that_is_not_utf8_is_named_before_anything_is_read(tmp_path: Path, before: int, wrong: bytes) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a" * before + wrong)
    with pytest.raises(InputError, match=rf"bad\.txt: not valid UTF-8 at byte {before}$"):
        read_texts(None, [path], None)


def test_a_bad_byte_of_standard_input_is_named_when_it_is_read(pipe: Callable[[bytes], None]) -> None:
    pipe(b"fine\nno\xfft\n")
    texts = read_texts(None, [STDIN], None)
    assert next(texts).text == "fine"
    with pytest.raises(InputError, match="standard input: not valid UTF-8 at byte 7"):
        next(texts)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent\.txt: No such file"):
        read_texts(None, [tmp_path / "absent.txt"], None)
    with pytest.raises(InputError, match="Is a directory"):
        check_file(tmp_path)


def test_a_prompt_from_a_file_loses_its_last_line_break(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("two\nlines\n")
    assert read_prompt_or_file(None, path) == "two\nlines"
    assert read_prompt_or_file("argument", None) == "argument"
