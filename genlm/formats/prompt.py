"""The prompt, from the command line or from standard input."""

from __future__ import annotations

import os
import select
import stat
import sys
from io import BufferedReader
from typing import cast

from genlm.errors import InputError, UsageError


def read_prompt(argument: str | None, noun: str = "prompt") -> str:
    """Return the argument, or standard input if the argument is `-` or None. `noun` names it in messages.

    One line break at the end of standard input is dropped, as it is not part of the prompt.

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
    if argument is None and _is_terminal():
        raise UsageError(f"no {noun}", hint='give one, such as "Once upon a time", or pipe one in')
    return _without_last_break(_decode(_stdin(noun).read()))


def _stdin(noun: str = "prompt") -> BufferedReader:
    if sys.stdin is None:
        raise UsageError(f"no {noun}: standard input is closed")
    return cast(BufferedReader, sys.stdin.buffer)


def _is_terminal() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


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


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not valid UTF-8 at byte {error.start}") from error


def check_utf8(argument: str, what: str) -> str:
    """Return an argument unchanged. Python keeps its invalid bytes as lone surrogates, which no tokenizer takes.

    Raises:
        InputError: text that is not UTF-8, with the offset of the first bad byte.
    """
    try:
        return os.fsencode(argument).decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"{what} is not valid UTF-8 at byte {error.start}") from error


def _without_last_break(text: str) -> str:
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
