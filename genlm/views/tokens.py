"""Tokens, probabilities and counts as every view shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from genlm.views.terminal import Writer, make_console, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

    from genlm.decoding.completion import TracedToken
    from genlm.records.inspection import TokenScore

T = TypeVar("T")
AnyToken = TypeVar("AnyToken", "TokenScore", "TracedToken")

OPEN_BOX = "\u2423"
# All white space except the usual characters, which have their own signs.
OTHER_SPACES = re.compile(r"[^\S \n\t]")
# GLTR's colours for four buckets, the most likely first. Rare tokens also stand out without colours.
STYLES = ("green", "yellow", "red underline", "magenta reverse")
LEAST_TOKEN_WIDTH, LARGEST_TOKEN_WIDTH = 8, 32
LEAST_BAR_WIDTH = 6
# The rows or tokens in one write.
CHUNK = 1000
EIGHTHS = " ▏▎▍▌▋▊▉█"


def label(text: str, split: bytes | None = None) -> str:
    """Return a token on one line: ␣ for a space, ␊ for a line break, <F0 9F> for part of a character."""
    if split is not None:
        return "<" + split.hex(" ").upper() + ">"
    shown = OTHER_SPACES.sub(lambda match: f"<U+{ord(match[0]):04X}>", visible(text))
    return shown.replace(" ", OPEN_BOX).replace("\n", "\u240a").replace("\t", "\u2409")


def shortened(text: str, width: int) -> str:
    """Return the text cut to at most `width` terminal cells."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def whole_pieces(tokens: Sequence[AnyToken]) -> list[tuple[str, AnyToken]]:
    """Return the text token by token. The bytes of a split character are joined and belong to its last token."""
    pieces: list[tuple[str, AnyToken]] = []
    held = b""
    for token in tokens:
        if token.bytes is None:
            if held:
                pieces.append((held.decode("utf-8", "replace"), token))
                held = b""
            pieces.append((token.text, token))
            continue
        held += token.bytes
        try:
            pieces.append((held.decode("utf-8"), token))
            held = b""
        except UnicodeDecodeError:
            continue
    if held:
        pieces.append((held.decode("utf-8", "replace"), tokens[-1]))
    return pieces


def counted(number: int, noun: str) -> str:
    """Return "1 token", "2,000 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def write_table(
    writer: Writer,
    names: Sequence[str],
    rows: Callable[[], Iterable[Sequence[str]]],
    styles: Iterable[str] | None = None,
) -> None:
    """Write a table of tokens with the columns `names`, and an empty line. `styles` are those of the tokens.

    The column `token` and one without a name are aligned left, all others right. If the terminal is too narrow, tokens
    are shortened. `rows` is called twice. A Rich table would take almost a millisecond per row.
    """
    from rich.cells import cell_len

    at = names.index("token")
    widths = [len(name) for name in names]
    for row in rows():
        widths = [max(width, cell_len(cell)) for width, cell in zip(widths, row, strict=True)]
    room = make_console(writer.stream).width - sum(widths) + widths[at] - 2 * (len(widths) - 1)
    widths[at] = min(widths[at], LARGEST_TOKEN_WIDTH, max(LEAST_TOKEN_WIDTH, room))

    def cells_of(row: Sequence[str]) -> list[str]:
        cells = [cell.rjust(width) if name else cell for name, cell, width in zip(names, row, widths, strict=True)]
        token = shortened(row[at], widths[at])
        cells[at] = token + " " * (widths[at] - cell_len(token))
        return cells

    def line(row: Sequence[str]) -> str:
        return "  ".join(cells_of(row)).rstrip() + "\n"

    writer.write(line(names), "dim")
    if styles is None or not writer.is_terminal:
        for chunk in chunks(map(line, rows())):
            writer.write("".join(chunk))
    else:
        for row, style in zip(rows(), styles, strict=True):
            cells = cells_of(row)
            writer.write("".join(f"{cell}  " for cell in cells[:at]))
            writer.write(cells[at], style)
            writer.write("  ".join(["", *cells[at + 1 :]]).rstrip() + "\n")
    writer.write("\n")


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield the values in lists of CHUNK."""
    remaining = iter(values)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def rounded(value: float | None, places: int) -> str:
    """Return "1,234.57", or a dash for a number that is not defined."""
    return "–" if value is None else f"{value:,.{places}f}"


def percent(part: float) -> str:
    """Return 0.1234 as "12.3 %". Small values have more digits, so no positive probability looks like zero."""
    value = 100 * part
    if value >= 0.01 or value == 0:
        return f"{value:.2f} %" if value < 9.995 else f"{value:.1f} %"
    return f"{value:.0e} %"


def bar(part: float, width: int) -> str:
    """Return a bar that fills `part` (0 to 1) of `width` cells. Any part above 0 is visible."""
    eighths = round(min(1.0, max(0.0, part)) * width * 8)
    if part > 0:
        eighths = max(1, eighths)
    full, rest = divmod(eighths, 8)
    return "█" * full + (EIGHTHS[rest] if rest else "")


class Bar:
    """A bar that fills `part` of the width that a table gives it."""

    def __init__(self, part: float, style: str) -> None:
        self.part = part
        self.style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(bar(self.part, options.max_width), style=self.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(LEAST_BAR_WIDTH, options.max_width)
