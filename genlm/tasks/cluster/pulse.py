"""What a worker tells the office, as long as it lives."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from genlm.records.batch import BatchModel, BatchRecord, RowError

PULSE_S = 1.0


@dataclass
class Report:
    """What a worker has done since its last report: it `made` so many records.

    `rows` are those of each part that have a record now, whoever made it.
    """

    worker: str
    rows: dict[str, int] = field(default_factory=dict)
    made: int = 0
    tokens: int = 0
    errors: list[RowError] = field(default_factory=list)
    is_idle: bool = False


class Office(Protocol):
    """Whom a worker reports to."""

    def check_model(self, model: BatchModel) -> None:
        """Raise OutputError where a worker's model is not that of the others."""
        ...

    def report(self, report: Report) -> bool:
        """Take a report. Returns whether to stop."""
        ...


class Pulse:
    """Reports once a second, and so tells that its worker lives."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._name = f"{socket.gethostname()}/{threading.get_native_id()}/{id(self)}"
        self._lock = threading.Lock()
        self._report = Report(self._name)
        # How many parts are being made.
        self._busy = 0
        self._stopping = threading.Event()
        threading.Thread(target=_beat, args=(weakref.ref(self),), daemon=True).start()

    def is_stopping(self) -> bool:
        """Whether the office has said to stop."""
        return self._stopping.is_set()

    def note(self, part: str, rows: int) -> None:
        """So many rows of a part have a record."""
        with self._lock:
            self._report.rows[part] = rows

    @contextmanager
    def making(self) -> Iterator[None]:
        """A part is being made."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def count(self, part: str, rows: int, record: BatchRecord) -> None:
        """So many rows of a part have a record, of which this is the latest."""
        with self._lock:
            self._report.rows[part] = rows
            self._report.made += 1
            self._report.tokens += sum(len(each["token_ids"]) for each in record["completions"])
            if record["error"] is not None:
                self._report.errors.append(record["error"])

    def tell(self) -> None:
        """Report now."""
        with self._lock:
            report, self._report = self._report, Report(self._name)
            report.is_idle = not self._busy
        if self._office.report(report):
            self._stopping.set()


def _beat(pulse: weakref.ref[Pulse]) -> None:
    while (alive := pulse()) is not None:
        alive.tell()
        del alive
        time.sleep(PULSE_S)
