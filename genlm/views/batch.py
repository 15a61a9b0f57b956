"""How far a batch is: a bar on a terminal, a line every few seconds elsewhere, and what failed."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from genlm.records.batch import BatchCounts, BatchRecord, RowError
from genlm.records.cluster import ClusterState
from genlm.views.terminal import make_console, notice, one_line, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Each picture takes time from the model.
PICTURES_PER_SECOND = 2
LINE_EVERY_S = 5.0
# The first prompts to end are the shortest, and what they took tells little of the others.
LEAST_KNOWN, LEAST_KNOWN_S = 5, 3.0
# A file of nothing but bad rows is not told row by row.
MOST_ERRORS = 10
# In so many seconds a machine with room has begun a worker.
WORKER_BEGINS_S = 30.0


class BatchProgress:
    """Shows on stderr how many prompts are done, how fast tokens come, and how long it will take.

    Rows that have failed before and are done again do not count as done. Its context begins the display and takes it
    away.
    """

    def __init__(self, rows: BatchCounts, *, retries: bool = False, enabled: bool = True) -> None:
        self.total = rows.rows
        self.done = rows.done - (rows.failed if retries else 0)
        self.tokens = 0
        self.failed = 0
        self._enabled = enabled
        self._before = self.done
        self._started = self._said = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> BatchProgress:
        # What loading the model took is no part of the speed.
        self._started = self._said = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._started

    def show(self, record: BatchRecord) -> None:
        """Count a record in."""
        self.done += 1
        self.tokens += sum(len(completion["token_ids"]) for completion in record["completions"])
        if record["error"] is not None:
            self.failed += 1
            self._show_error(record["error"])
        self._show_state()

    def _show_state(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, total=self.total, completed=self.done, speed=self._pace(), left=self._left()
            )
        elif self._enabled and time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            notice(f"{self.done:,} of {self.total:,} prompts  {self._pace()}  {self._left()}")

    def say(self, line: str, style: str = "dim") -> None:
        """A line of its own, above the bar."""
        if not self._enabled:
            return
        if self._progress is not None:
            self._progress.console.print(one_line(line), style=style)
        else:
            say((style, one_line(line)))

    @staticmethod
    def describe(error: RowError) -> str:
        """Where a row stands, and what is wrong with it."""
        place = f"row {error['row']}" if error["line"] is None else f"line {error['line']}"
        return f"{error['file']}, {place}: {error['message']}"

    def summary(self, where: object, failed: int) -> str:
        """What was done, in one line; `failed` are all the prompts that have an error now."""
        parts = [f"{self.done:,} of {self.total:,} prompts are in {where}"]
        if failed:
            parts.append(f"{failed:,} of them with an error")
        if self.done > self._before:
            parts.append(f"{self.tokens:,} tokens in {_duration(self.seconds)} ({self._speed()})")
        return "  ".join(parts)

    def _speed(self) -> str:
        return f"{self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s"

    def _pace(self) -> str:
        return self._speed()

    def _left(self) -> str:
        made = self.done - self._before
        if made < LEAST_KNOWN or self.seconds < LEAST_KNOWN_S:
            return ""
        return f"{_duration(self.seconds / made * (self.total - self.done))} left"

    def _show_error(self, error: RowError) -> None:
        if self.failed > MOST_ERRORS + 1:
            return
        if self.failed > MOST_ERRORS:
            self.say("further failures are told by the records alone", "yellow")
            return
        self.say(self.describe(error), "yellow")

    def _open_bar(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("prompts"),
            TextColumn("{task.fields[speed]}", style="cyan"),
            TextColumn("{task.fields[left]}", style="dim"),
            console=make_console(sys.stderr),
            refresh_per_second=PICTURES_PER_SECOND,
            transient=True,
        )
        self._task = self._progress.add_task("", total=self.total, completed=self.done, speed="", left="")
        self._progress.start()


class ClusterProgress(BatchProgress):
    """The same of a batch that several workers do, and how many of these there are."""

    def __init__(self, *, enabled: bool = True) -> None:
        super().__init__(BatchCounts(0, 0, 0), enabled=enabled)
        self._state: ClusterState | None = None
        self._alone_since: float | None = None
        self._is_told_to_wait = False

    @property
    def seconds(self) -> float:
        """From the first record to the last."""
        return self._state.seconds if self._state is not None else 0.0

    def see(self, state: ClusterState) -> None:
        """Show how far it is."""
        self._state = state
        self.total, self.done, self.tokens = state.rows or 0, state.done, state.tokens
        self._before = state.done - state.made
        for error in state.errors:
            self.failed += 1
            self._show_error(error)
        self._tell_to_wait(state)
        self._show_state()

    def _tell_to_wait(self, state: ClusterState) -> None:
        """Say once that there has been no worker for a while."""
        if state.workers:
            self._alone_since = None
            return
        self._alone_since = self._alone_since or time.monotonic()
        if not self._is_told_to_wait and time.monotonic() - self._alone_since > WORKER_BEGINS_S:
            self._is_told_to_wait = True
            self.say(
                "no worker runs: it may be that no machine has room for one, see ray status, --cpus-per-worker and "
                "--gpus-per-worker; still waiting"
            )

    def _pace(self) -> str:
        workers = 0 if self._state is None else self._state.workers
        return f"{self._speed()}  {workers} worker{'' if workers == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
