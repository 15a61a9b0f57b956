"""The progress of a training run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from genlm.records.train import TrainFacts, TrainReport, TrainResult
from genlm.views.terminal import make_console, one_line, say

if TYPE_CHECKING:
    from rich.progress import Progress

# Without a terminal: the number of lines in a run, and the longest time without one.
LINES = 20
LINE_EVERY_S = 30.0


class TrainView:
    """Shows the progress of a run on stderr. As a context manager it opens and removes the bar."""

    def __init__(self, facts: TrainFacts, *, enabled: bool = True) -> None:
        self._facts = facts
        self._enabled = enabled
        self._bar = _bar() if enabled and sys.stderr.isatty() else None
        self._valid: TrainReport | None = None
        self._last_progress, self._last_time = 0.0, 0.0

    def __enter__(self) -> TrainView:
        if self._enabled:
            say(("dim", _facts_line(self._facts)), wrap=True)
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("", total=1.0, numbers="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, record: TrainReport | TrainResult) -> None:
        """Show a record."""
        if not self._enabled:
            return
        if isinstance(record, TrainResult):
            for line in result_lines(record):
                self._say(line)
            return
        if self._bar is not None:
            self._valid = record if record.valid_loss is not None else self._valid
            numbers = bar_numbers(record, self._valid)
            self._bar.update(self._bar.task_ids[0], completed=record.progress, numbers=numbers)
            self._bar.refresh()
        if record.valid_loss is not None or record.sample is not None or self._is_time(record):
            self._say(report_line(record, alone=self._bar is None))
        if record.sample is not None:
            self._say(f"  {one_line(record.sample)}", "dim")

    def _is_time(self, report: TrainReport) -> bool:
        """Return whether a line is due. There are none beside a bar."""
        if self._bar is not None:
            return False
        passed = int(report.progress * LINES) > int(self._last_progress * LINES)
        if passed or time.monotonic() - self._last_time > LINE_EVERY_S:
            self._last_progress, self._last_time = report.progress, time.monotonic()
            return True
        return False

    def _say(self, line: str, style: str | None = None) -> None:
        if self._bar is None:
            say((style, line))
            return
        from rich.text import Text

        # A style passed to `print` would apply to the bar below, too.
        self._bar.console.print(Text(line, style or ""), soft_wrap=False, no_wrap=True, overflow="ellipsis")


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TextColumn("{task.fields[numbers]}", markup=False),
        console=make_console(sys.stderr),
        auto_refresh=False,
        transient=True,
    )


def bar_numbers(report: TrainReport, evaluated: TrainReport | None) -> str:
    """Return the numbers beside the bar; `evaluated` is the last report with a loss on held-out text."""
    parts = [f"loss {report.loss:.3f}"]
    if evaluated is not None:
        parts.append(f"valid {evaluated.valid_loss:.3f}")
    bits = report.bits_per_byte if evaluated is None else evaluated.valid_bits_per_byte
    return " ".join([*parts, f"{bits:.2f} bits/byte", f"{report.tokens_per_s:,.0f} tok/s", _left(report)])


def report_line(report: TrainReport, *, alone: bool) -> str:
    """Return the progress in one line; `alone`: without a bar beside it."""
    if report.valid_loss is None:
        losses = f"loss {report.loss:.4f} ({report.bits_per_byte:.3f} bits/byte)"
    else:
        losses = f"loss {report.loss:.4f}  valid {report.valid_loss:.4f} ({report.valid_bits_per_byte:.3f} bits/byte)"
    if not alone:
        return f"step {report.step:,}  {losses}"
    return f"step {report.step:,}  {report.progress:.0%}  {losses}  {report.tokens_per_s:,.0f} tok/s  {_left(report)}"


def _left(report: TrainReport) -> str:
    return f"{_clock(report.seconds * (1 / report.progress - 1))} left"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole // 60 % 60:02}:{whole % 60:02}"


def result_lines(result: TrainResult) -> Iterator[str]:
    """Yield the lines of the result."""
    early = ", ended early because the held-out loss no longer fell" if result.stopped_early else ""
    yield f"{result.step:,} steps, {result.tokens:,} tokens in {_clock(result.seconds)}{early}"
    if result.valid_loss is not None:
        loss = f"loss {result.valid_loss:.4f} ({result.valid_bits_per_byte:.4f} bits/byte)"
        yield f"kept step {result.best_step:,}: on all the held-out text {loss}"


def _facts_line(facts: TrainFacts) -> str:
    texts = f"{facts.num_documents:,} texts, a {facts.per} each" if facts.num_documents > 1 else "1 text"
    parts = [
        f"{facts.architecture}, {facts.parameters / 1e6:.2f} M parameters, {facts.recipe['dtype']} on {facts.device}",
        f"{texts}: {facts.num_bytes:,} bytes, {facts.num_tokens:,} tokens",
    ]
    if facts.held_bytes:
        parts.append(f"{facts.held_bytes:,} bytes held out")
    if facts.entropy is not None:
        parts.append(f"the loss cannot go below {facts.entropy:.4f}")
    return "; ".join(parts)
