"""A worker: one model, loaded once, that makes the records of several chunks at a time and reports its progress."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, TypeAlias

from genlm.errors import InputError
from genlm.formats.folder import open_folder
from genlm.records.batch import BatchModel, BatchRecord, RowError
from genlm.tasks.batch.jobs import Job, model_of, run_jobs
from genlm.tasks.batch.run import Plan
from genlm.tasks.cluster.parts import Chunk, UnfinishedPart, part_contents, read_records, usable_records

if TYPE_CHECKING:
    from genlm.model.load import Model

HEARTBEAT_S = 1.0
# The records of a chunk as they finish. An error or None means that no more will come.
RecordQueue: TypeAlias = "SimpleQueue[BatchRecord | Exception | None]"


@dataclass(frozen=True)
class Resources:
    """How many workers there are, and the CPUs and GPUs of each. A worker with a fraction of a GPU shares it."""

    workers: int
    cpus: float
    gpus: float = 0.0


@dataclass
class Report:
    """The progress of a worker since its last report: it made `made` records.

    `rows` counts for each part all rows that have a record now, old ones too. `notices` are lines for the user.
    """

    worker: str
    rows: dict[str, int] = field(default_factory=dict)
    made: int = 0
    tokens: int = 0
    errors: list[RowError] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    is_idle: bool = False


class Coordinator(Protocol):
    """The coordinator of a batch, to which each worker reports."""

    def check_model(self, model: BatchModel) -> None:
        """Raise OutputError if a worker's model differs from that of the others."""
        ...

    def report(self, report: Report) -> bool:
        """Take a report. Return whether the worker must stop."""
        ...


@dataclass(frozen=True)
class PartResult:
    """The result for a chunk. `data` are the contents of the part, which must be written.

    `data` is None if the part was complete already or the worker stopped early.
    """

    part: str
    data: bytes | None
    rows: int
    failed: int


class Worker:
    """Makes the records of chunks."""

    def __init__(self, plan: Plan, coordinator: Coordinator) -> None:
        self._plan = plan
        self._coordinator = coordinator
        self._heartbeat = Heartbeat(coordinator)
        self._loop = SharedLoop(self._load, plan.batch_size, self._heartbeat.is_stopping)

    def make(self, chunk: Chunk) -> PartResult:
        """Make the part with a record for each row of the chunk. Several threads may call this at once.

        Raises:
            GenlmError: a model that cannot be loaded, records that were made with other settings, or, if the plan
                stops on errors, a row with an error.
        """
        try:
            return self._make(chunk)
        finally:
            self._heartbeat.send()

    def _make(self, chunk: Chunk) -> PartResult:
        plan, model, part = self._plan, self._loop.model, chunk.part
        folder = open_folder(plan.output)
        records, is_part, damaged = read_records(folder, part)
        self._heartbeat.note_damage(damaged)
        known = plan.model.known if model is None else model_of(model)
        done = usable_records(plan, chunk.jobs, records, known)
        left = [job for job in chunk.jobs if str(job.id) not in done]
        self._heartbeat.note_rows(part, len(done))
        if not left and is_part and len(records) == len(done):
            return PartResult(part, None, len(done), sum(record.error is not None for record in records))
        if left:
            unfinished = UnfinishedPart(folder, part)
            with self._heartbeat.busy():
                try:
                    for record in self._loop.run(left):
                        if plan.stop_on_error and record.error is not None:
                            raise InputError(str(record.error), code="row-failed")
                        unfinished.add(record.to_line())
                        done[str(record.id)] = record
                        self._heartbeat.note_record(part, len(done), record)
                finally:
                    if len(done) < len(chunk.jobs):
                        unfinished.keep()
                    else:
                        unfinished.forget()
        if len(done) < len(chunk.jobs):
            return PartResult(part, None, len(done), 0)
        data, failed = part_contents(chunk.jobs, done)
        return PartResult(part, data, len(done), failed)

    def _load(self) -> Model:
        model = self._plan.model.on_this_machine().load()
        self._coordinator.check_model(model_of(model))
        return model


class Heartbeat:
    """Reports to the coordinator once a second, so that it knows the worker is alive."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._name = f"{socket.gethostname()}/{threading.get_native_id()}/{id(self)}"
        self._lock = threading.Lock()
        self._report = Report(self._name)
        self._chunks = 0
        self._stopping = threading.Event()
        threading.Thread(target=_beat, args=(weakref.ref(self),), daemon=True).start()

    def is_stopping(self) -> bool:
        """Return whether the coordinator wants the worker to stop."""
        return self._stopping.is_set()

    def note_rows(self, part: str, rows: int) -> None:
        """Note how many rows of a part have a record."""
        with self._lock:
            self._report.rows[part] = rows

    def note_damage(self, damaged: Iterable[str]) -> None:
        """Note damaged records, each named by its place."""
        with self._lock:
            self._report.notices += [f"{place}: ignored a damaged record; its row runs again" for place in damaged]

    def note_record(self, part: str, rows: int, record: BatchRecord) -> None:
        """Note a new record, and how many rows of its part have one now."""
        with self._lock:
            self._report.rows[part] = rows
            self._report.made += 1
            self._report.tokens += sum(len(each.token_ids) for each in record.completions)
            if record.error is not None:
                self._report.errors.append(record.error)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a chunk as running."""
        with self._lock:
            self._chunks += 1
        try:
            yield
        finally:
            with self._lock:
                self._chunks -= 1

    def send(self) -> None:
        """Report now."""
        with self._lock:
            report, self._report = self._report, Report(self._name)
            report.is_idle = not self._chunks
        if self._coordinator.report(report):
            self._stopping.set()


def _beat(heartbeat: weakref.ref[Heartbeat]) -> None:
    while (alive := heartbeat()) is not None:
        alive.send()
        del alive
        time.sleep(HEARTBEAT_S)


class SharedLoop:
    """Runs the jobs of several chunks in one decoding loop, in a thread that lives as long as there are jobs.

    The rows of one chunk run beside the last ones of the chunk before. The same thread loads the model: OpenMP has a
    pool for each thread that computes, and if all pools together have more threads than there are processors, they
    sleep after every operation.
    """

    def __init__(self, load: Callable[[], Model], batch_size: int | None, is_stopping: Callable[[], bool]) -> None:
        self.model: Model | None = None
        self._load = load
        self._batch_size = batch_size
        self._is_stopping = is_stopping
        self._lock = threading.Lock()
        self._waiting = JobQueue()
        # By id. If the cluster started a task twice, two queues wait for the same id.
        self._queues: dict[str, list[RecordQueue]] = {}
        self._is_running = False

    def run(self, jobs: Sequence[Job]) -> Iterator[BatchRecord]:
        """Yield the records of a chunk's jobs as they finish; not all of them if the worker is stopping.

        Several threads may call this at once.

        Raises:
            GenlmError: a model that cannot be loaded.
        """
        queue: RecordQueue = SimpleQueue()
        with self._lock:
            for job in jobs:
                self._queues.setdefault(str(job.id), []).append(queue)
            self._waiting.jobs += jobs
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run_all, daemon=True).start()
        for _ in jobs:
            record = queue.get()
            if isinstance(record, Exception):
                raise record
            if record is None:
                return
            yield record

    def _run_all(self) -> None:
        """Run waiting jobs until there are none."""
        while True:
            error = self._run_waiting()
            with self._lock:
                if error is not None or self._is_stopping():
                    self._end(error)
                if not self._waiting.jobs:
                    self._is_running = False
                    return

    def _run_waiting(self) -> Exception | None:
        """Run waiting jobs and those that arrive meanwhile. Return the error that ended this early, if any."""
        try:
            if self.model is None:
                self.model = self._load()
            for record in run_jobs(
                self.model, self._waiting, batch_size=self._batch_size, is_stopping=self._is_stopping
            ):
                self._hand_over(record)
        except Exception as error:
            return error
        return None

    def _hand_over(self, record: BatchRecord) -> None:
        """Give a record to the chunk that waits for it."""
        id = str(record.id)
        with self._lock:
            self._queues[id].pop().put(record)
            if not self._queues[id]:
                del self._queues[id]

    def _end(self, error: Exception | None) -> None:
        """Tell all chunks that no more records will come."""
        for queue in {each for queues in self._queues.values() for each in queues}:
            queue.put(error)
        self._queues.clear()
        self._waiting.jobs.clear()


class JobQueue:
    """The waiting jobs, as an iterator that continues if jobs are added after its end."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        if not self.jobs:
            raise StopIteration
        return self.jobs.popleft()
