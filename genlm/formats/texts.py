"""Prompts and texts to analyze: from the command line, standard input, or files as a whole or line by line."""

from __future__ import annotations

import codecs
import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import IO, Literal, TypeAlias, cast

from genlm.errors import InputError, UsageError
from genlm.formats.files import STDIN

Per: TypeAlias = Literal["line", "file"]
BLOCK = 1 << 20


def read_prompt(argument: str | None, noun: str = "prompt") -> str:
    """Return the argument, or standard input if the argument is `-` or None. `noun` names it in messages.

    One line break at the end of standard input is dropped, because it is not part of the prompt.

    Raises:
        UsageError: an argument together with piped text, or neither.
        InputError: text that is not UTF-8, with the offset of the first bad byte.
    """
    if argument is not None and argument != "-":
        if _something_is_piped():
            raise UsageError(
                f"give the {noun} as an argument or on standard input, not both",
                hint=f"<{os.devnull} makes standard input empty",
            )
        return check_utf8(argument, f"the {noun}")
    if argument is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(f"no {noun}", hint='give one, such as "Once upon a time", or pipe one in')
    try:
        return _without_break(_stdin(noun).read().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not valid UTF-8 at byte {error.start}") from error


def _stdin(noun: str = "prompt") -> BufferedReader:
    if sys.stdin is None:
        raise UsageError(f"no {noun}: standard input is closed")
    return cast(BufferedReader, sys.stdin.buffer)


def _something_is_piped() -> bool:
    """Return whether a file or pipe on standard input has text. An open pipe without any yet does not count."""
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    if stat.S_ISREG(mode):
        return os.fstat(descriptor).st_size > os.lseek(descriptor, 0, os.SEEK_CUR)
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    try:
        readable, _, _ = select.select([descriptor], [], [], 0)
    except OSError:
        # Windows cannot check a pipe for text.
        return False
    # A closed pipe is readable too, but empty.
    return bool(readable) and bool(_stdin().peek(1))


def check_utf8(argument: str, what: str) -> str:
    """Return an argument unchanged. Python keeps invalid bytes in it as lone surrogates, which no tokenizer accepts.

    Raises:
        InputError: text that is not UTF-8, with the offset of the first bad byte.
    """
    try:
        return os.fsencode(argument).decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"{what} is not valid UTF-8 at byte {error.start}") from error


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
    if files.count(STDIN) > 1:
        raise UsageError("standard input can be read only once")
    for path in files:
        if path != STDIN:
            check_file(path)
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


def check_file(path: Path) -> None:
    """Raise InputError if a file cannot be read or is not UTF-8, with the first bad byte."""
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # A pipe can be read only once.
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = start = 0
    try:
        with path.open("rb") as stream:
            for block in chain(iter(partial(stream.read, BLOCK), b""), [b""]):
                start = done - len(decoder.getstate()[0])
                decoder.decode(block, final=not block)
                done += len(block)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 at byte {start + error.start}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path, per: Per) -> Iterator[Text]:
    name = "standard input" if path == STDIN else str(path)
    try:
        if path == STDIN:
            yield from _from_stream(_stdin("text"), name, per)
            return
        with path.open("rb") as stream:
            yield from _from_stream(stream, name, per)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


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


def _without_break(text: str) -> str:
    """Return a text without the line feed, or carriage return and line feed, at its end."""
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
