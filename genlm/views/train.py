"""A training run as it goes: plain lines."""

from __future__ import annotations

from genlm.records import TrainReport, TrainResult
from genlm.views.terminal import notice


class TrainView:
    """Shows how a run stands, on stderr."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled

    def show(self, record: TrainReport | TrainResult) -> None:
        """Show a record."""
        if self._enabled:
            notice(_report_line(record) if isinstance(record, TrainReport) else _result_line(record))


def _report_line(report: TrainReport) -> str:
    valid = ""
    if report.valid_loss is not None:
        valid = f"  valid {report.valid_loss:.4f} ({report.valid_bits_per_byte:.4f} bits/byte)"
    return (
        f"step {report.step}  {report.progress:.1%}  loss {report.loss:.4f} ({report.bits_per_byte:.4f} bits/byte)"
        f"{valid}  rate {report.learning_rate:.2e}  {report.tokens_per_s:,.0f} tok/s  {_time_left(report)} left"
    )


def _time_left(report: TrainReport) -> str:
    seconds = round(report.seconds * (1 / report.progress - 1))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _result_line(result: TrainResult) -> str:
    valid = ""
    if result.valid_loss is not None:
        valid = f"; valid {result.valid_loss:.4f} nats a token, {result.valid_bits_per_byte:.4f} bits/byte"
    return (
        f"{result.step} steps, {result.tokens:,} tokens, {result.seconds:,.0f} s; kept step {result.best_step}{valid}"
    )
