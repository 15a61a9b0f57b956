"""The parts of a batch: complete ones, records whose part is not complete, and all of them merged into one file."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from genlm.errors import InputError, OutputError
from genlm.formats.folder import LocalFolder, RemoteFolder, open_folder
from genlm.formats.output import replacing
from genlm.records.batch import BatchModel, BatchRecord, check_line
from genlm.tasks.batch.jobs import Job
from genlm.tasks.batch.plan import Plan
from genlm.tasks.batch.run import MOST_IDS, changed_prompts, check_same
from genlm.tasks.batch.tables import is_table, write_table
from genlm.tasks.cluster.chunks import part_name
from genlm.tasks.cluster.manifest import UNFINISHED, Manifest, read_manifest

# A worker that is lost takes no more than this much work with it.
KEEP_EVERY_S = 5.0


class UnfinishedPart:
    """The records of a part in the making, kept in files beside it, a few seconds after they were made at most.

    Each file is written once, because an object store cannot append.
    """

    def __init__(self, folder: LocalFolder | RemoteFolder, part: str) -> None:
        self._folder = folder
        self._part = part
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, line: str) -> None:
        """Add a record, to be written soon."""
        with self._lock:
            self._lines.append(line)
            if self._timer is None:
                self._timer = threading.Timer(KEEP_EVERY_S, self._keep_in_time)
                self._timer.daemon = True
                self._timer.start()

    def keep(self) -> None:
        """Write the records that were added since the last time. Raise OutputError if that fails."""
        with self._lock:
            self._stop_timer()
            if self._lines:
                name = f"{UNFINISHED}/{self._part}/{uuid.uuid4().hex}.jsonl"
                self._folder.write(name, "".join(f"{line}\n" for line in self._lines).encode())
            self._lines = []

    def forget(self) -> None:
        """Drop the records that are not written yet: the part itself is about to be written."""
        with self._lock:
            self._stop_timer()
            self._lines = []

    def _keep_in_time(self) -> None:
        # A failed write is repeated with the next record, and reported with the part.
        with contextlib.suppress(OutputError):
            self.keep()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None


def forget_unfinished(folder: LocalFolder | RemoteFolder, part: str) -> None:
    """Remove what was kept of a part that is complete now."""
    folder.remove(f"{UNFINISHED}/{part}")


class PartRecords(NamedTuple):
    """The records there are of a part, wherever they are kept.

    `is_part` is whether they are all in the part itself. `damaged` names each damaged record by file and line.
    """

    records: list[BatchRecord]
    is_part: bool
    damaged: list[str]


def read_records(folder: LocalFolder | RemoteFolder, part: str) -> PartRecords:
    """Return the records there are of a part. An incomplete last line is skipped."""
    unfinished = f"{UNFINISHED}/{part}"
    # A name with a dot is that of a file that was not written completely.
    kept = [f"{unfinished}/{name}" for name in folder.names(unfinished) if not name.startswith(".")]
    records: list[BatchRecord] = []
    damaged: list[str] = []
    is_part = not kept
    for name in (part, *kept):
        for number, line in enumerate(BytesIO(folder.read(name) or b""), 1):
            try:
                records.append(BatchRecord.from_line(line))
            except ValueError:
                if line.endswith(b"\n"):
                    damaged.append(f"{folder.place}/{name}, line {number}")
                is_part = False
            else:
                is_part = is_part and line.endswith(b"\n")
    return PartRecords(records, is_part and bool(records), damaged)


def usable_records(
    plan: Plan, jobs: Iterable[Job], records: Iterable[BatchRecord], model: BatchModel
) -> dict[str, BatchRecord]:
    """Return the records of these jobs, by id, that need not be made again. Of several with one id the last counts.

    Raises:
        OutputError: a record that was made with other settings, or from another prompt, than its job has now.
    """
    by_id = {str(record.id): record for record in records}
    done, changed = {}, []
    for job in jobs:
        record = by_id.get(str(job.id))
        if record is None or (plan.retry_errors and record.error is not None):
            continue
        if record.prompt != job.prompt:
            if not plan.redo_changed:
                changed.append(str(job.id))
            continue
        check_same(record, job.settings.provenance(model), plan.output, job.id)
        done[str(job.id)] = record
    if changed:
        raise changed_prompts(plan.output, len(changed), changed[:MOST_IDS])
    return done


def part_contents(jobs: Iterable[Job], records: dict[str, BatchRecord]) -> tuple[bytes, int]:
    """Return the contents of a complete part, its records in the order of the jobs, and how many have an error."""
    ordered = [records[str(job.id)] for job in jobs]
    failed = sum(record.error is not None for record in ordered)
    return "".join(f"{record.to_line()}\n" for record in ordered).encode(), failed


def merge_parts(place: str, output: Path, *, csv_safe: bool = False) -> Manifest:
    """Write all records of a folder of parts to one file, in the order of the input. Return its manifest.

    For `csv_safe` see write_csv.

    Raises:
        InputError: a folder without parts, or with rows that have no record yet.
        UsageError: an output that is neither JSON lines nor a table, or not CSV if `csv_safe` is set.
        OutputError: a file that cannot be written; the file that was there before stays.
    """
    needs_table = is_table(output, safe=csv_safe)
    folder = open_folder(place)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{place} holds no parts of genlm batch")
    with replacing(output) as stream:
        if needs_table:
            records = lambda: map(BatchRecord.from_line, _lines(folder, manifest))  # noqa: E731
            write_table(output, records, stream, safe=csv_safe)
        else:
            stream.writelines(_lines(folder, manifest))
    return manifest


def _lines(folder: LocalFolder | RemoteFolder, manifest: Manifest) -> Iterator[bytes]:
    for file, rows in enumerate(manifest.rows):
        for number in range(manifest.parts(file)):
            expected = min(manifest.rows_per_part, rows - number * manifest.rows_per_part)
            yield from _lines_of_part(folder, part_name(file, number), expected)


def _lines_of_part(folder: LocalFolder | RemoteFolder, name: str, expected: int) -> Iterator[bytes]:
    lines = list(BytesIO(folder.read(name) or b""))
    for number, line in enumerate(lines, 1):
        try:
            check_line(line)
        except ValueError as error:
            if line.endswith(b"\n"):
                message = f"{folder.place}/{name}, line {number}: a damaged record"
                raise InputError(message, code="parts-missing") from error
    complete = sum(line.endswith(b"\n") for line in lines)
    if complete != expected or len(lines) != expected:
        raise InputError(
            f"{folder.place} is not finished: {name} has {complete:,} of {expected:,} records",
            code="parts-missing",
        )
    yield from lines
