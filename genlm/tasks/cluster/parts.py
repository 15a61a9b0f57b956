"""The records of a part: those that are whole, those of a worker that was lost, and those still to be made."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterable

from genlm.errors import OutputError
from genlm.formats.folder import LocalFolder, RemoteFolder
from genlm.records.batch import BatchModel, BatchRecord
from genlm.tasks.batch.jobs import Job
from genlm.tasks.cluster.manifest import check_same, made_with, record_made_with

# Where records are kept until their part is whole, so that a worker that is lost takes no more than a few seconds'
# work with it. Each file is written once, which every store can do.
UNFINISHED = "unfinished"
KEEP_EVERY_S = 5.0


class Unfinished:
    """The records of a part that is being made, kept in files beside it: each so many seconds after it came."""

    def __init__(self, folder: LocalFolder | RemoteFolder, part: str) -> None:
        self._folder = folder
        self._part = part
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, line: str) -> None:
        """Take in a record."""
        with self._lock:
            self._lines.append(line)
            if self._timer is None:
                self._timer = threading.Timer(KEEP_EVERY_S, self._keep_in_time)
                self._timer.daemon = True
                self._timer.start()

    def keep(self) -> None:
        """Write what has come since the last time. Raises OutputError where it cannot be written."""
        with self._lock:
            self._stop_timer()
            if self._lines:
                name = f"{UNFINISHED}/{self._part}/{uuid.uuid4().hex}.jsonl"
                self._folder.write(name, "".join(f"{line}\n" for line in self._lines).encode())
            self._lines = []

    def forget(self) -> None:
        """Keep nothing of what has come since the last time: the part itself is to be written."""
        with self._lock:
            self._stop_timer()
            self._lines = []

    def _keep_in_time(self) -> None:
        # What cannot be written now is tried again with the next record, and told with the part.
        with contextlib.suppress(OutputError):
            self.keep()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None


def forget_unfinished(folder: LocalFolder | RemoteFolder, part: str) -> None:
    """Take away what was kept of a part, which is whole now."""
    folder.remove(f"{UNFINISHED}/{part}")


def read_records(folder: LocalFolder | RemoteFolder, part: str) -> tuple[list[BatchRecord], bool]:
    """The whole records there are of a part, wherever they are kept, and whether they are the part itself.

    A line that was not written to its end is none.
    """
    whole = folder.read(part) or b""
    kept = [folder.read(f"{UNFINISHED}/{part}/{name}") or b"" for name in folder.names(f"{UNFINISHED}/{part}")]
    records = [record for data in (whole, *kept) for record in _records_in(data)]
    is_part = not kept and whole.endswith(b"\n") and whole.count(b"\n") == len(records)
    return records, is_part


def _records_in(data: bytes) -> Iterable[BatchRecord]:
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record["model"], dict) and "error" in record:
                yield record  # type: ignore[misc]
        except (ValueError, KeyError, RecursionError):
            continue


def finished(
    jobs: Iterable[Job], records: Iterable[BatchRecord], model: BatchModel, place: str, *, retries: bool
) -> dict[str, BatchRecord]:
    """The records of these jobs, by id, that need not be made again. Of several with one id the last counts.

    Raises:
        OutputError: a record that was made with other settings than its job has.
    """
    by_id = {str(record["id"]): record for record in records}
    done = {}
    for job in jobs:
        record = by_id.get(str(job.id))
        if record is None or (retries and record["error"] is not None):
            continue
        check_same(record_made_with(record), made_with(job.settings, model), place, f" (row {job.id!r})")
        done[str(job.id)] = record
    return done


def in_order(
    jobs: Iterable[Job], done: dict[str, BatchRecord], as_line: Callable[[BatchRecord], str]
) -> tuple[bytes, int]:
    """The contents of a whole part, and how many of its records have failed."""
    records = [done[str(job.id)] for job in jobs]
    failed = sum(record["error"] is not None for record in records)
    return "".join(f"{as_line(record)}\n" for record in records).encode(), failed
