"""Write text to a terminal, which must never act on what prompts and models contain."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from genlm.records.serialize import UNSAFE

if TYPE_CHECKING:
    from rich.console import Console


def visible(text: str) -> str:
    """Return the text with visible signs for the characters that a terminal may act on: ESC as ␛, others as codes."""
    return UNSAFE.sub(_picture, text)


def one_line(text: str) -> str:
    """Return the visible text on one line: line breaks, which a file name may contain, become spaces."""
    return " ".join(visible(text).split())


def underlined(text: str, start: int, end: int) -> str:
    """Return the text on one line, and below it `^^^^` under `text[start:end]`, measured in terminal columns."""
    from rich.cells import cell_len

    before, place, after = (
        visible(part).replace("\n", "␊").replace("\t", " ") for part in (text[:start], text[start:end], text[end:])
    )
    return f"{before}{place}{after}\n{' ' * cell_len(before)}{'^' * max(1, cell_len(place))}"


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


class Writer:
    """Writes text to a stream and flushes it: made visible and styled on a terminal, unaltered elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.console = make_console(stream) if stream.isatty() else None

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is a terminal."""
        return self.console is not None

    def write(self, text: str, style: str | None = None) -> None:
        """Write `text` as data: nothing in it is markup."""
        if self.console is not None:
            self.console.out(visible(text), style=style, highlight=False, end="")
        else:
            self.stream.write(text)
        self.stream.flush()


def make_console(stream: TextIO) -> Console:
    """Return a Rich console that reads no markup in texts."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)


def notice(line: str) -> None:
    """Write one line to stderr, dim on a terminal."""
    say(("dim", line))


def notices(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that writes notices, or one that does nothing."""
    return (lambda _: None) if quiet else notice


def say(*parts: tuple[str | None, str], wrap: bool = False) -> None:
    """Write one line of (style, text) parts to stderr. A closed or full stderr is ignored: it must not end a run.

    With `wrap`, a line that is too long for the terminal is broken at spaces. Without it, a command can be copied.
    """
    with contextlib.suppress(OSError):
        writer = Writer(sys.stderr)
        if wrap and writer.console is not None:
            from rich.text import Text

            line = Text.assemble(*((visible(text), style or "") for style, text in parts))
            writer.console.print(line, soft_wrap=False)
            sys.stderr.flush()
            return
        for style, text in parts:
            writer.write(visible(text), style)
        writer.write("\n")
