"""The rows of a plan's files: counted, their ids compared, and cut into chunks. Nothing here knows of a cluster."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from itertools import islice
from typing import NamedTuple

from genlm.errors import InputError
from genlm.tasks.batch.jobs import Job, read_file
from genlm.tasks.cluster.plan import Chunk, Plan, part_name

DIGEST_BYTES = 8
DIGESTS_AT_ONCE = 1 << 16


class Place(NamedTuple):
    """An id, and where it is."""

    id: str
    file: int
    row: int
    where: str


def jobs_of(plan: Plan, file: int) -> Iterator[Job]:
    """The jobs of a plan's file, in their order. Raises InputError where it cannot be read."""
    return read_file(plan.files[file], plan.names[file], plan.fields, plan.settings)


def chunks(plan: Plan, file: int, size: int) -> Iterator[Chunk]:
    """The rows of a file in chunks of `size`, the last one smaller."""
    jobs = jobs_of(plan, file)
    number = 0
    while some := list(islice(jobs, size)):
        yield Chunk(part_name(file, number), some)
        number += 1


def digests(plan: Plan, file: int) -> Iterator[bytes]:
    """What tells the ids of a file apart, `DIGEST_BYTES` for each row, many rows at once.

    Raises:
        InputError: a file that cannot be read, or a bad row where the plan is strict.
    """
    jobs = jobs_of(plan, file)
    while some := list(islice(jobs, DIGESTS_AT_ONCE)):
        bad = next((job for job in some if job.error is not None), None)
        if plan.is_strict and bad is not None:
            raise InputError(f"{where(bad)}: {bad.error}")
        yield b"".join(digest(job) for job in some)


def digest(job: Job) -> bytes:
    """Eight bytes that are hardly ever those of another id."""
    return hashlib.blake2b(str(job.id).encode(), digest_size=DIGEST_BYTES).digest()


def places(plan: Plan, file: int, suspects: Collection[bytes]) -> Iterator[Place]:
    """Where the ids of a file are whose digest is one of the suspects."""
    for job in jobs_of(plan, file):
        if digest(job) in suspects:
            yield Place(str(job.id), file, job.row, where(job))


def where(job: Job) -> str:
    """The place of a row, for a user."""
    return f"{job.source}, line {job.line}" if job.line is not None else f"{job.source}, row {job.row}"
