"""One loop for all parts that a worker makes: the next part's rows run beside the last ones of the part before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from genlm.records.batch import BatchRecord
from genlm.tasks.batch.jobs import Job
from genlm.tasks.batch.work import run_jobs

if TYPE_CHECKING:
    from genlm.model.load import Model

# The records of a part as they end; then, if it ends before they are all there, None or why.
Records: TypeAlias = "SimpleQueue[BatchRecord | Exception | None]"


class SharedLoop:
    """Runs the jobs of several parts at once, in a thread that lives as long as there are any.

    The model is loaded with the first of them, and by the same thread: OpenMP has a pool for each thread that computes,
    and where the threads of all pools are more than the processors they sleep after every operation.
    """

    def __init__(self, load: Callable[[], Model], batch_size: int | None, is_stopping: Callable[[], bool]) -> None:
        self.model: Model | None = None
        self._load = load
        self._batch_size = batch_size
        self._is_stopping = is_stopping
        self._lock = threading.Lock()
        self._waiting = Waiting()
        # By id; a task that its cluster began twice has two that wait for the same.
        self._records: dict[str, list[Records]] = {}
        self._is_running = False

    def run(self, jobs: Sequence[Job]) -> Iterator[BatchRecord]:
        """The records of a part's jobs as they end: not all of them where it is stopping.

        May be called by several threads at once. Raises GenlmError for a model that cannot be loaded.
        """
        records: Records = SimpleQueue()
        with self._lock:
            for job in jobs:
                self._records.setdefault(str(job.id), []).append(records)
            self._waiting.jobs += jobs
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run_all, daemon=True).start()
        for _ in jobs:
            record = records.get()
            if isinstance(record, Exception):
                raise record
            if record is None:
                return
            yield record

    def _run_all(self) -> None:
        """Run what waits until nothing does."""
        while True:
            error = self._run_waiting()
            with self._lock:
                if error is not None or self._is_stopping():
                    self._end(error)
                if not self._waiting.jobs:
                    self._is_running = False
                    return

    def _run_waiting(self) -> Exception | None:
        """Run what waits, and what comes meanwhile. Returns what has ended it before its end."""
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
        """Give a record to the part that waits for it."""
        id = str(record["id"])
        with self._lock:
            self._records[id].pop().put(record)
            if not self._records[id]:
                del self._records[id]

    def _end(self, error: Exception | None) -> None:
        """Tell all parts that no more records come."""
        for records in {each for waiting in self._records.values() for each in waiting}:
            records.put(error)
        self._records.clear()
        self._waiting.jobs.clear()


class Waiting:
    """The jobs that nobody has taken yet, as an iterator that goes on after an end as soon as there are more."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()

    def __iter__(self) -> Iterator[Job]:
        return self

    def __next__(self) -> Job:
        if not self.jobs:
            raise StopIteration
        return self.jobs.popleft()
