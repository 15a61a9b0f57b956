"""A spinner for a step of unknown length, and a bar for work of known length; both on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from genlm.views.terminal import make_console, one_line

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status

Thing = TypeVar("Thing")
Live = TypeVar("Live", "Progress", "Status")
Self = TypeVar("Self", bound="_Display[Any]")
# Drawing takes time from the model.
PICTURES_PER_SECOND = 8


class _Display(Generic[Live]):
    """Something on stderr that disappears at the end; without a terminal it shows nothing.

    It must be stopped before anything else is written to the terminal, or one would overwrite the other.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._console = make_console(sys.stderr) if enabled and sys.stderr.isatty() else None
        self._live: Live | None = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the display."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Spinner(_Display["Status"]):
    """Shows the current step."""

    def say(self, text: str) -> None:
        """Show `text` instead of the previous one."""
        # A dumb terminal cannot erase the line, and older releases of Rich print a line break there.
        if self._console is None or self._console.is_dumb_terminal:
            return
        from rich.text import Text

        # The spinner would parse markup in a plain string.
        shown = Text(one_line(text))
        if self._live is None:
            self._live = self._console.status(shown, refresh_per_second=PICTURES_PER_SECOND)
            self._live.start()
        else:
            self._live.update(shown)


class ProgressBar(_Display["Progress"]):
    """A bar with a count and the time left."""

    def __init__(self, text: str, total: int, *, enabled: bool = True) -> None:
        super().__init__(enabled=enabled)
        self._text = text
        self._total = total

    def count(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """Yield the things and count each as it comes, with the bar shown."""
        self._start()
        for done, thing in enumerate(things, 1):
            self.update(done)
            yield thing

    def update(self, done: float, text: str | None = None) -> None:
        """Show how many things are done, which may include part of the current one, and name the current one."""
        if self._live is not None:
            task = self._live.task_ids[0]
            self._live.update(task, completed=done, description=None if text is None else one_line(text))

    def _start(self) -> None:
        if self._console is None:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self._live = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._live.add_task(one_line(self._text), total=self._total)
        self._live.start()
