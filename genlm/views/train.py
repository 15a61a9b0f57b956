"""A training run as it goes: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from genlm.records import TrainFacts, TrainReport, TrainResult
from genlm.views.terminal import make_console, notice, one_line, say

if TYPE_CHECKING:
    from rich.progress import Progress

# Without a terminal a line comes as often in a run as this, and at least every so many seconds.
LINES = 20
LINE_EVERY_S = 30.0


class TrainView:
    """Shows how a run stands, on stderr. It is a context: at its end the bar goes."""

    def __init__(self, facts: TrainFacts, *, enabled: bool = True) -> None:
        self._facts = facts
        self._enabled = enabled
        self._bar = _bar() if enabled and sys.stderr.isatty() else None
        self._last_progress, self._last_time = 0.0, 0.0

    def __enter__(self) -> TrainView:
        if self._enabled:
            notice(_facts_line(self._facts))
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("", total=1.0, numbers="", left="")
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
            self._say(result_line(record))
            return
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=record.progress, numbers=_numbers(record), left=_left(record)
            )
            self._bar.refresh()
        if record.valid_loss is not None or record.sample is not None or self._is_time(record):
            self._say(report_line(record))
        if record.sample is not None:
            self._say(f"  {one_line(record.sample)}", "dim")

    def _is_time(self, report: TrainReport) -> bool:
        """Whether a line is due where there is no bar."""
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
        else:
            self._bar.console.print(line, style=style, soft_wrap=False)


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TextColumn("{task.fields[numbers]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False, style="dim"),
        console=make_console(sys.stderr),
        auto_refresh=False,
        transient=True,
    )


def _numbers(report: TrainReport) -> str:
    return f"step {report.step:,}  loss {report.loss:.3f}  {report.tokens_per_s:,.0f} tok/s"


def report_line(report: TrainReport) -> str:
    """How the run stands, in one line."""
    parts = [f"step {report.step:,}", f"{report.progress:.0%}"]
    if report.valid_loss is None:
        parts.append(f"loss {report.loss:.4f} ({report.bits_per_byte:.3f} bits/byte)")
    else:
        parts.append(f"loss {report.loss:.4f}")
        parts.append(f"valid {report.valid_loss:.4f} ({report.valid_bits_per_byte:.3f} bits/byte)")
    return "  ".join([*parts, f"{report.tokens_per_s:,.0f} tok/s", _left(report)])


def _left(report: TrainReport) -> str:
    return f"{_clock(report.seconds * (1 / report.progress - 1))} left"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole // 60 % 60:02}:{whole % 60:02}"


def result_line(result: TrainResult) -> str:
    """What the run came to, in one line."""
    parts = [f"{result.step:,} steps, {result.tokens:,} tokens in {_clock(result.seconds)}"]
    if result.stopped_early:
        parts.append("ended early, for the held-out loss no longer fell")
    if result.valid_loss is not None:
        parts.append(f"kept step {result.best_step:,}")
        parts.append(f"held-out loss {result.valid_loss:.4f}, {result.valid_bits_per_byte:.4f} bits/byte")
    return "; ".join(parts)


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
