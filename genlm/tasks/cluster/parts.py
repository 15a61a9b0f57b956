"""The folder of a batch on a cluster: chunks of rows, a part file for each, and the manifest. It works without Ray."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from genlm.decoding.request import draw_seed
from genlm.errors import InputError, OutputError
from genlm.formats.folder import LocalFolder, RemoteFolder, open_folder
from genlm.formats.output import replacing
from genlm.records.batch import BatchModel, BatchRecord, Provenance, check_line
from genlm.records.made_by import Versions
from genlm.records.serialize import from_builtins, to_builtins
from genlm.tasks.batch.jobs import BatchSettings, Job, id_prefixes, read_file_jobs
from genlm.tasks.batch.run import MOST_IDS, Plan, changed_prompts, check_same, digest_of
from genlm.tasks.batch.tables import is_table, write_table

NAME = "manifest.json"
FORMAT = "genlm parts 1"
# Beside the parts, the folder of records whose part is not complete.
UNFINISHED = "unfinished"
# Each worker gets several chunks, so that all finish at about the same time. A chunk is large enough that its last
# sequences, which run without company, cost little.
CHUNKS_PER_WORKER = 4
SMALLEST_CHUNK, LARGEST_CHUNK = 16, 4096
# A worker takes two chunks or more at once, so that new rows replace those that finish and prompts of similar length
# can be encoded together.
ROWS_AT_ONCE = 1024
DIGESTS_AT_ONCE = 1 << 16
# A lost worker loses at most this much work.
KEEP_EVERY_S = 5.0


@dataclass(frozen=True)
class Manifest:
    """`rows` are those of each file; `made_with` is the provenance of rows without overrides.

    `made_by` are the versions of the last run. `done` and `failed` count records, and are None until all rows have one.
    """

    files: tuple[str, ...]
    rows: tuple[int, ...]
    rows_per_part: int
    made_with: Provenance
    made_by: Versions
    done: int | None = None
    failed: int | None = None

    @property
    def total(self) -> int:
        """How many rows there are."""
        return sum(self.rows)

    def write(self, folder: LocalFolder | RemoteFolder) -> None:
        """Write the manifest to its folder. Raise OutputError if that fails."""
        values = {"format": FORMAT, **to_builtins(vars(self) | {"made_with": self.made_with.settings()})}
        folder.write(NAME, json.dumps(values, indent=2).encode() + b"\n")


def read_manifest(folder: LocalFolder | RemoteFolder) -> Manifest | None:
    """Return the manifest of a folder, or None if there is none.

    Raises:
        OutputError: a file of that name that is not a manifest.
    """
    data = folder.read(NAME)
    if data is None:
        return None
    try:
        values = json.loads(data)
        if values.pop("format") != FORMAT:
            raise ValueError
        return from_builtins(Manifest, values | {"made_with": Provenance.from_settings(values["made_with"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{folder.place}/{NAME} is not a manifest of genlm batch") from error


def check_output(plan: Plan, folder: LocalFolder | RemoteFolder) -> Manifest | None:
    """Return the manifest of the parts to continue, or None to start over. Change nothing.

    Raises:
        OutputError: the folder holds something else, parts that the plan does not resume, or parts that were made with
            other settings.
    """
    held = [name for name in folder.names() if not name.startswith(".")]
    if not held:
        return None
    manifest = None if plan.overwrite else read_manifest(folder)
    if manifest is None:
        if not all(name in (NAME, UNFINISHED) or name.startswith("part-") for name in held):
            raise OutputError(f"{plan.output} holds files that are not parts of genlm batch: choose another folder")
        if not plan.overwrite:
            raise OutputError(f"{plan.output} holds parts without {NAME}", code="output-not-resumable")
        return None
    if not plan.resume:
        raise OutputError(f"{plan.output} already exists", code="output-exists")
    settings = choose_seed(plan, manifest)
    check_same(manifest.made_with, settings.provenance(plan.model.known), plan.output)
    return manifest


def forget_parts(folder: LocalFolder | RemoteFolder) -> None:
    """Remove the manifest and all parts. The manifest goes first: without it the rest is ignored."""
    for name in (NAME, UNFINISHED, *(name for name in folder.names() if name.startswith("part-"))):
        folder.remove(name)


def choose_seed(plan: Plan, manifest: Manifest | None) -> BatchSettings:
    """Return the plan's settings; if no seed was given, with the manifest's seed or else a new one."""
    if plan.has_seed:
        return plan.settings
    return replace(plan.settings, seed=draw_seed() if manifest is None else manifest.made_with.seed)


def check_files(manifest: Manifest, files: tuple[str, ...], rows: tuple[int, ...], output: str) -> None:
    """Raise InputError if the input lacks rows that have a part."""
    if manifest.files != files:
        raise InputError(
            f"{output} was made from {', '.join(manifest.files)}, and now the input is {', '.join(files)}",
            hint="continue with the same files in the same order",
            code="output-not-resumable",
        )
    for name, then, now in zip(files, manifest.rows, rows, strict=True):
        if now < then:
            raise InputError(
                f"{name} had {then:,} rows when {output} was started, and now it has {now:,}",
                hint="rows may only be added at the end",
                code="output-not-resumable",
            )


# Chunks of rows.


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file, and the name of the part that will hold their records."""

    part: str
    jobs: Sequence[Job]


class IdLocation(NamedTuple):
    """An id and where it is; `place` is the wording for users."""

    id: str
    file: int
    row: int
    place: str


def part_name(file: int, number: int) -> str:
    """Return the name of a part. Names sort in the order of the input."""
    return f"part-{file:05}-{number:07}.jsonl"


def rows_per_chunk(rows: int, workers: int) -> int:
    """Return how many of `rows` rows make a chunk."""
    return min(max(-(-rows // (CHUNKS_PER_WORKER * workers)), SMALLEST_CHUNK), LARGEST_CHUNK)


def chunks_at_once(size: int) -> int:
    """Return how many chunks of `size` rows a worker takes at the same time."""
    return min(max(-(-ROWS_AT_ONCE // size), 2), CHUNKS_PER_WORKER)


def read_chunks(plan: Plan, file: int, size: int) -> Iterator[Chunk]:
    """Yield the rows of a file in chunks of `size`; the last one may be smaller."""
    jobs = _jobs_of(plan, file)
    number = 0
    while some := list(islice(jobs, size)):
        yield Chunk(part_name(file, number), some)
        number += 1


def read_digests(plan: Plan, file: int) -> Iterator[bytes]:
    """Yield digests of the ids of a file, `DIGEST_BYTES` for each row, many rows at a time.

    Raises:
        InputError: a file that cannot be read, or a bad row if the plan stops on errors.
    """
    jobs = _jobs_of(plan, file)
    while some := list(islice(jobs, DIGESTS_AT_ONCE)):
        bad = next((job for job in some if job.error is not None), None)
        if plan.stop_on_error and bad is not None:
            raise InputError(str(bad.row_error(bad.error or "")))
        yield b"".join(digest_of(str(job.id)) for job in some)


def find_ids(plan: Plan, file: int, digests: Collection[bytes]) -> Iterator[IdLocation]:
    """Yield the ids of a file that have one of these digests."""
    for job in _jobs_of(plan, file):
        if digest_of(str(job.id)) in digests:
            yield IdLocation(str(job.id), file, job.row, job.row_error("").place)


def _jobs_of(plan: Plan, file: int) -> Iterator[Job]:
    """Yield the jobs of a file in order. Raise InputError if it cannot be read."""
    return read_file_jobs(plan.files[file], id_prefixes(plan.files)[file], plan.columns, plan.settings)


# Parts and their records.


class UnfinishedPart:
    """The records of a part that is not complete, kept in files beside it within a few seconds.

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


class PartRecords(NamedTuple):
    """The existing records of a part. `is_part` is whether the part itself has them all.

    `damaged` names each damaged record by file and line.
    """

    records: list[BatchRecord]
    is_part: bool
    damaged: list[str]


def read_records(folder: LocalFolder | RemoteFolder, part: str) -> PartRecords:
    """Return the existing records of a part. An incomplete last line is skipped."""
    unfinished = f"{UNFINISHED}/{part}"
    # A name that starts with a dot is that of a file that was not written completely.
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

    See write_csv for `csv_safe`.

    Raises:
        InputError: the folder has no parts, or rows without a record.
        UsageError: the output is neither JSON lines nor a table, or not CSV if `csv_safe` is set.
        OutputError: the file cannot be written; the old file stays.
    """
    needs_table = is_table(output, safe=csv_safe)
    folder = open_folder(place)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{place} holds no parts of genlm batch")
    with replacing(output) as stream:
        if needs_table:
            write_table(output, lambda: map(BatchRecord.from_line, _lines(folder, manifest)), stream, safe=csv_safe)
        else:
            stream.writelines(_lines(folder, manifest))
    return manifest


def _lines(folder: LocalFolder | RemoteFolder, manifest: Manifest) -> Iterator[bytes]:
    for file, rows in enumerate(manifest.rows):
        for number, start in enumerate(range(0, rows, manifest.rows_per_part)):
            expected = min(manifest.rows_per_part, rows - start)
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
