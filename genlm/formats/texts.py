"""Texts to analyze: from the command line, standard input, or files as a whole or line by line."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from genlm.errors import InputError, UsageError
from genlm.formats.prompt import read_prompt

Per: TypeAlias = Literal["line", "file"]
STDIN = Path("-")
BLOCK = 1 << 20


@dataclass(frozen=True)
class Text:
    """A text; `source` names the file that it comes from, `line` its line there, from 1."""

    text: str
    source: str | None = None
    line: int | None = None


def read_texts(argument: str | None, files: Sequence[Path], per: Per | None) -> Iterator[Text]:
    """Return the texts to analyze, one at a time: each line of a file, or the whole file if `per` is "file".

    A line does not include its line break; a whole file includes all its bytes. Without files the text is the
    argument or standard input, as one text unless `per` is "line".

    Raises:
        UsageError: both an argument and files, or neither.
        InputError: a file cannot be read or is not UTF-8 (with the byte). Regular files are checked at once, standard
            input as it is read.
    """
    if files and argument is not None:
        raise UsageError("give a text or files, not both")
    if not files and per == "line" and argument in (None, "-"):
        files = [STDIN]
    if not files:
        whole = read_prompt(argument, "text")
        return (Text(line) for line in whole.split("\n")) if per == "line" else iter([Text(whole)])
    if len(files) - len(set(files)) and files.count(STDIN) > 1:
        raise UsageError("standard input can be read only once")
    for path in files:
        if path != STDIN:
            check_utf8(path)
    return (text for path in files for text in _read(path, per or "line"))


def read_prompt_or_file(argument: str | None, file: Path | None) -> str:
    """Return the prompt from `read_prompt`, or a file's contents without its last line break.

    Raises:
        UsageError: both a prompt and a file, or neither.
        InputError: the file cannot be read, or the text is not UTF-8 (with the byte).
    """
    if file is None:
        return read_prompt(argument)
    if argument is not None:
        raise UsageError("give a prompt or a file, not both")
    return _without_break("".join(text.text for text in _read(file, "file")))


def check_utf8(path: Path) -> None:
    """Raise InputError if a file cannot be read or is not UTF-8, with the first bad byte."""
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # A pipe can be read only once.
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                held = len(decoder.getstate()[0])
                _decode_block(decoder, block, path, done - held)
                done += len(block)
            _decode_block(decoder, b"", path, done - len(decoder.getstate()[0]), final=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _decode_block(
    decoder: codecs.IncrementalDecoder, block: bytes, path: Path, start: int, *, final: bool = False
) -> None:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 at byte {start + error.start}") from error


def _read(path: Path, per: Per) -> Iterator[Text]:
    name = "standard input" if path == STDIN else str(path)
    try:
        if path == STDIN:
            yield from _from_stream(_stdin(), name, per)
            return
        with path.open("rb") as stream:
            yield from _from_stream(stream, name, per)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _stdin() -> IO[bytes]:
    if sys.stdin is None:
        raise UsageError("no text: standard input is closed")
    return sys.stdin.buffer


def _from_stream(stream: IO[bytes], name: str, per: Per) -> Iterator[Text]:
    if per == "file":
        yield Text(_decoded(stream.read(), name, 0), name)
        return
    at = 0
    for number, line in enumerate(stream, 1):
        yield Text(_without_break(_decoded(line, name, at)), name, number)
        at += len(line)


def _decoded(data: bytes, name: str, start: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not valid UTF-8 at byte {start + error.start}") from error


def _without_break(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
