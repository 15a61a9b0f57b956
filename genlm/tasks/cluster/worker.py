"""A worker: one model, loaded once, that makes the records of several parts at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from genlm.errors import InputError
from genlm.records.batch import BatchRecord, RowError
from genlm.tasks.batch.jobs import Job
from genlm.tasks.batch.work import model_of
from genlm.tasks.cluster.parts import Unfinished, finished, in_order, read_records
from genlm.tasks.cluster.plan import Chunk, ModelChoice, Plan
from genlm.tasks.cluster.pulse import Office, Pulse
from genlm.tasks.cluster.shared_loop import SharedLoop

if TYPE_CHECKING:
    from genlm.model.load import Model


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
        self._pulse = Pulse(office)
        self._loop = SharedLoop(partial(_load, plan.model, office), plan.batch_size, self._pulse.is_stopping)

    def make(self, chunk: Chunk) -> Made:
        """The part that has a record for each row of the chunk. May be called by several threads at once.

        Raises:
            GenlmError: a model that cannot be loaded, records that were made with other settings, or, where the plan
                is strict, a row that failed.
        """
        try:
            return self._make(chunk)
        finally:
            self._pulse.tell()

    def _make(self, chunk: Chunk) -> Made:
        folder, plan, model = self._plan.folder, self._plan, self._loop.model
        records, is_part = read_records(folder, chunk.part)
        known = plan.model.known if model is None else model_of(model)
        done = finished(chunk.jobs, records, known, plan.output, retries=plan.retries)
        left = [job for job in chunk.jobs if str(job.id) not in done]
        self._pulse.note(chunk.part, len(done))
        if not left and is_part and len(records) == len(done):
            return Made(chunk.part, None, len(done), sum(record["error"] is not None for record in done.values()))
        if left:
            with self._pulse.making(), self._keeping(chunk.part) as unfinished:
                for record in self._run(left):
                    done[str(record["id"])] = record
                    unfinished.add(plan.as_line(record))
                    self._pulse.count(chunk.part, len(done), record)
        if len(done) < len(chunk.jobs):
            return Made(chunk.part, None, len(done), 0)
        data, failed = in_order(chunk.jobs, done, plan.as_line)
        return Made(chunk.part, data, len(done), failed)

    def _run(self, jobs: Sequence[Job]) -> Iterator[BatchRecord]:
        for record in self._loop.run(jobs):
            error = record["error"]
            if self._plan.is_strict and error is not None:
                raise InputError(f"{_place(error)}: {error['message']}", hint="--resume goes on with the others")
            yield record

    @contextmanager
    def _keeping(self, part: str) -> Iterator[Unfinished]:
        unfinished = Unfinished(self._plan.folder, part)
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


def _load(choice: ModelChoice, office: Office) -> Model:
    model = choice.load()
    office.check_model(model_of(model))
    return model


def _place(error: RowError) -> str:
    return f"{error['file']}, line {error['line']}" if error["line"] else f"{error['file']}, row {error['row']}"
