"""Bars of block characters, in steps of an eighth of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

LEAST_WIDTH = 6
EIGHTHS = " ▏▎▍▌▋▊▉█"


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

        return Measurement(LEAST_WIDTH, options.max_width)


def bar(part: float, width: int) -> str:
    """Return a bar that fills `part` (0 to 1) of `width` cells. Any part above 0 is visible."""
    eighths = round(min(1.0, max(0.0, part)) * width * 8)
    if part > 0:
        eighths = max(1, eighths)
    full, rest = divmod(eighths, 8)
    return "█" * full + (EIGHTHS[rest] if rest else "")


def percent(part: float) -> str:
    """Return 0.1234 as "12.3 %". Small values have more digits, so no positive probability looks like zero."""
    value = 100 * part
    if value >= 0.01 or value == 0:
        return f"{value:.2f} %" if value < 9.995 else f"{value:.1f} %"
    return f"{value:.0e} %"
