"""The progress of a batch: a bar on a terminal, elsewhere a line every few seconds; and errors as they come."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from genlm.records.batch import BatchCounts, BatchRecord, ClusterState, RowError
from genlm.views.terminal import make_console, notice, one_line, say

if TYPE_CHECKING:
    from rich.progress import Progress

# Drawing takes time from the model.
REFRESHES_PER_SECOND = 2
LINE_EVERY_S = 5.0
# The first prompts to finish are the shortest: an estimate needs this many prompts, and this much time.
LEAST_PROMPTS, LEAST_S = 5, 3.0
# A file of bad rows must not fill the screen.
MOST_ERRORS = MOST_NOTICES = 10
# Warn if no worker has started after this long.
WORKER_STARTS_S = 30.0


class BatchProgress:
    """Shows on stderr how many prompts are done, how fast tokens come, and how long it will take.

    As a context manager it opens and closes the display.
    """

    def __init__(self, counts: BatchCounts, *, enabled: bool = True) -> None:
        self.total = counts.rows
        self.done = counts.done
        self.tokens = 0
        self.failed = 0
        self._enabled = enabled
        self._before = self.done
        self._started = self._last_line = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> BatchProgress:
        # Loading the model does not count.
        self._started = self._last_line = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._started

    def show(self, record: BatchRecord) -> None:
        """Count a new record and show the progress."""
        self.done += 1
        self.tokens += sum(len(completion.token_ids) for completion in record.completions)
        if record.error is not None:
            self._show_error(record.error)
        self._show_progress()

    def say(self, line: str, style: str = "dim") -> None:
        """Write a line above the bar."""
        if not self._enabled:
            return
        if self._progress is not None:
            self._progress.console.print(one_line(line), style=style)
        else:
            say((style, one_line(line)))

    def summary(self, output: object, failed: int) -> str:
        """Return the result in one line; `failed` counts all records with an error, old ones too."""
        parts = [f"{self.done:,} of {self.total:,} prompts are in {output}"]
        if failed:
            parts.append(f"{failed:,} of them with an error")
        if self.done > self._before:
            parts.append(f"{self.tokens:,} tokens in {format_duration(self.seconds)} ({self._tokens_per_second()})")
        return "  ".join(parts)

    def _show_progress(self) -> None:
        if self._progress is not None:
            (task,) = self._progress.task_ids
            self._progress.update(task, total=self.total, completed=self.done, speed=self._speed(), left=self._left())
        elif self._enabled and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            notice(f"{self.done:,} of {self.total:,} prompts  {self._speed()}  {self._left()}")

    def _tokens_per_second(self) -> str:
        return f"{self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s"

    def _speed(self) -> str:
        return self._tokens_per_second()

    def _left(self) -> str:
        made = self.done - self._before
        if made < LEAST_PROMPTS or self.seconds < LEAST_S:
            return ""
        return f"{format_duration(self.seconds / made * (self.total - self.done))} left"

    def _show_error(self, error: RowError) -> None:
        self.failed += 1
        if self.failed <= MOST_ERRORS:
            self.say(str(error), "yellow")
        elif self.failed == MOST_ERRORS + 1:
            self.say("further errors are only in the records", "yellow")

    def _open_bar(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("prompts"),
            TextColumn("{task.fields[speed]}", style="cyan"),
            TextColumn("{task.fields[left]}", style="dim"),
            console=make_console(sys.stderr),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._progress.add_task("", total=self.total, completed=self.done, speed="", left="")
        self._progress.start()


class ClusterProgress(BatchProgress):
    """The progress of a batch on a cluster, with the number of workers."""

    def __init__(self, *, enabled: bool = True) -> None:
        super().__init__(BatchCounts(0, 0, 0), enabled=enabled)
        self._state: ClusterState | None = None
        self._without_worker_since: float | None = None
        self._has_warned = False
        self._num_notices = 0

    @property
    def seconds(self) -> float:
        """The time from the first record to the last."""
        return self._state.seconds if self._state is not None else 0.0

    def see(self, state: ClusterState) -> None:
        """Show the progress."""
        self._state = state
        self.total, self.done, self.tokens = state.rows or 0, state.done, state.tokens
        self._before = state.done - state.made
        for line in state.notices:
            self._show_notice(line)
        for error in state.errors:
            self._show_error(error)
        self._warn_without_worker(state)
        self._show_progress()

    def _show_notice(self, line: str) -> None:
        self._num_notices += 1
        if self._num_notices <= MOST_NOTICES:
            self.say(line)
        elif self._num_notices == MOST_NOTICES + 1:
            self.say("further notices like these are not shown")

    def _warn_without_worker(self, state: ClusterState) -> None:
        """Warn once if there has been no worker for a while."""
        if state.workers:
            self._without_worker_since = None
            return
        self._without_worker_since = self._without_worker_since or time.monotonic()
        if not self._has_warned and time.monotonic() - self._without_worker_since > WORKER_STARTS_S:
            self._has_warned = True
            self.say(
                "no worker is running; perhaps no machine has enough free resources: compare ray status with "
                "--cpus-per-worker and --gpus-per-worker; still waiting"
            )

    def _speed(self) -> str:
        workers = 0 if self._state is None else self._state.workers
        return f"{self._tokens_per_second()}  {workers} worker{'' if workers == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return a duration for people, as 1 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
