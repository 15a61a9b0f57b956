"""A spinner while there is nothing to read yet, and a bar for work of known length; both on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from genlm.views.terminal import make_console, one_line

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status

Thing = TypeVar("Thing")
# Drawing takes time from the model.
PICTURES_PER_SECOND = 8


class Spinner:
    """Shows the current step on stderr, in a line that disappears; without a terminal it shows nothing.

    It must be stopped before anything else is written to the terminal, or one would overwrite the other.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._console = make_console(sys.stderr) if enabled and sys.stderr.isatty() else None
        self._status: Status | None = None

    def __enter__(self) -> Spinner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def say(self, text: str) -> None:
        """Show `text` instead of the previous one."""
        # A dumb terminal cannot erase the line, and older releases of Rich print a line break there.
        if self._console is None or self._console.is_dumb_terminal:
            return
        from rich.text import Text

        # The spinner would parse markup in a plain string.
        shown = Text(one_line(text))
        if self._status is None:
            self._status = self._console.status(shown, refresh_per_second=PICTURES_PER_SECOND)
            self._status.start()
        else:
            self._status.update(shown)

    def stop(self) -> None:
        """Remove the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class ProgressBar:
    """A bar with a count and the time left, which disappears at the end; without a terminal it shows nothing.

    It must be stopped before anything else is written to the terminal, or one would overwrite the other.
    """

    def __init__(self, text: str, total: int, *, enabled: bool = True) -> None:
        self._console = make_console(sys.stderr) if enabled and sys.stderr.isatty() else None
        self._text = text
        self._total = total
        self._progress: Progress | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def count(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """Yield the things and count each as it comes, with the bar shown."""
        self._start()
        for done, thing in enumerate(things, 1):
            self.update(done)
            yield thing

    def update(self, done: float, text: str | None = None) -> None:
        """Show how many things are done, the current one in part, and what the current one is."""
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=done, description=None if text is None else one_line(text))

    def stop(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start(self) -> None:
        if self._console is None:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._progress.add_task(one_line(self._text), total=self._total)
        self._progress.start()
