"""The rows of a plan's files: counted, checked for duplicate ids, and cut into chunks. Knows nothing of Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from genlm.errors import InputError
from genlm.tasks.batch.jobs import Job, id_prefixes, read_file_jobs
from genlm.tasks.batch.plan import Plan

# Each worker gets several chunks, so that all finish at about the same time. A chunk is large enough that its last
# sequences, which run without company, cost little.
CHUNKS_PER_WORKER = 4
SMALLEST_CHUNK, LARGEST_CHUNK = 16, 4096
# A worker takes two chunks or more at once, so that new rows replace those that finish and prompts of similar length
# can be encoded together.
ROWS_AT_ONCE = 1024
DIGEST_BYTES = 8
DIGESTS_AT_ONCE = 1 << 16


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
        yield b"".join(_digest(job) for job in some)


def find_ids(plan: Plan, file: int, digests: Collection[bytes]) -> Iterator[IdLocation]:
    """Yield the ids of a file that have one of these digests."""
    for job in _jobs_of(plan, file):
        if _digest(job) in digests:
            yield IdLocation(str(job.id), file, job.row, job.row_error("").place)


def _jobs_of(plan: Plan, file: int) -> Iterator[Job]:
    """Yield the jobs of a file in order. Raise InputError if it cannot be read."""
    return read_file_jobs(plan.files[file], id_prefixes(plan.files)[file], plan.columns, plan.settings)


def _digest(job: Job) -> bytes:
    """Return bytes that differ between ids, almost always."""
    return hashlib.blake2b(str(job.id).encode(), digest_size=DIGEST_BYTES).digest()
