"""A worker: one model, loaded once, that makes the records of one part after the other."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from genlm.errors import InputError
from genlm.records.batch import BatchModel, BatchRecord, RowError
from genlm.tasks.batch.jobs import Job
from genlm.tasks.batch.work import model_of, run_jobs
from genlm.tasks.cluster.parts import Unfinished, finished, in_order, read_records
from genlm.tasks.cluster.plan import Chunk, Plan

if TYPE_CHECKING:
    from genlm.model.load import Model

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


@dataclass(frozen=True)
class Made:
    """A part that is whole; its `data` is None where it was so before, or is not for the worker was told to stop."""

    part: str
    data: bytes | None
    rows: int
    failed: int


class Worker:
    """Makes parts, and reports to the office as long as it lives."""

    def __init__(self, plan: Plan, office: Office) -> None:
        self._plan = plan
        self._office = office
        self._model: Model | None = None
        self._pulse = Pulse(office)

    def make(self, chunk: Chunk) -> Made:
        """The part that has a record for each row of the chunk.

        Raises:
            GenlmError: a model that cannot be loaded, records that were made with other settings, or, where the plan
                is strict, a row that failed.
        """
        try:
            return self._make(chunk)
        finally:
            self._pulse.tell()

    def _make(self, chunk: Chunk) -> Made:
        folder, plan = self._plan.folder, self._plan
        records, is_part = read_records(folder, chunk.part)
        known = plan.model.known if self._model is None else model_of(self._model)
        done = finished(chunk.jobs, records, known, plan.output, retries=plan.retries)
        left = [job for job in chunk.jobs if str(job.id) not in done]
        self._pulse.note(chunk.part, len(done))
        if not left and is_part and len(records) == len(done):
            return Made(chunk.part, None, len(done), sum(record["error"] is not None for record in done.values()))
        if left:
            with self._keeping(chunk.part) as unfinished:
                for record in self._run(left):
                    done[str(record["id"])] = record
                    unfinished.add(plan.as_line(record))
                    self._pulse.count(chunk.part, record)
        if len(done) < len(chunk.jobs):
            return Made(chunk.part, None, len(done), 0)
        data, failed = in_order(chunk.jobs, done, plan.as_line)
        return Made(chunk.part, data, len(done), failed)

    def _run(self, jobs: Sequence[Job]) -> Iterator[BatchRecord]:
        for record in run_jobs(
            self._loaded(), jobs, batch_size=self._plan.batch_size, is_stopping=self._pulse.is_stopping
        ):
            error = record["error"]
            if self._plan.is_strict and error is not None:
                raise InputError(f"{_place(error)}: {error['message']}", hint="--resume goes on with the others")
            yield record

    def _loaded(self) -> Model:
        if self._model is None:
            self._model = self._plan.model.load()
            self._office.check_model(model_of(self._model))
        return self._model

    @contextmanager
    def _keeping(self, part: str) -> Iterator[Unfinished]:
        unfinished = Unfinished(self._plan.folder, part)
        self._pulse.is_idle = False
        try:
            yield unfinished
        except BaseException:
            unfinished.keep()
            raise
        else:
            if self._pulse.is_stopping():
                unfinished.keep()
            else:
                unfinished.forget()
        finally:
            self._pulse.is_idle = True


class Pulse:
    """Reports once a second, and so tells that its worker lives."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._name = f"{socket.gethostname()}/{threading.get_native_id()}/{id(self)}"
        self._lock = threading.Lock()
        self._report = Report(self._name)
        # Those of the part that is being made.
        self._rows = 0
        self._stopping = threading.Event()
        self.is_idle = True
        threading.Thread(target=_beat, args=(weakref.ref(self),), daemon=True).start()

    def is_stopping(self) -> bool:
        """Whether the office has said to stop."""
        return self._stopping.is_set()

    def note(self, part: str, rows: int) -> None:
        """So many rows of a part have a record."""
        with self._lock:
            self._report.rows[part] = self._rows = rows

    def count(self, part: str, record: BatchRecord) -> None:
        """One more row of the part has one."""
        with self._lock:
            self._rows += 1
            self._report.rows[part] = self._rows
            self._report.made += 1
            self._report.tokens += sum(len(each["token_ids"]) for each in record["completions"])
            if record["error"] is not None:
                self._report.errors.append(record["error"])

    def tell(self) -> None:
        """Report now."""
        with self._lock:
            report, self._report = self._report, Report(self._name)
        report.is_idle = self.is_idle
        if self._office.report(report):
            self._stopping.set()


def _beat(pulse: weakref.ref[Pulse]) -> None:
    while (alive := pulse()) is not None:
        alive.tell()
        del alive
        time.sleep(PULSE_S)


def _place(error: RowError) -> str:
    return f"{error['file']}, line {error['line']}" if error["line"] else f"{error['file']}, row {error['row']}"
