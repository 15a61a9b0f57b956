"""The flow through a cluster, by Ray Data: files are read in chunks, and workers make and write parts of them.

Only a few chunks are under way at any time, so that memory stays flat. Ray Data gives the work of a worker or a
machine that is lost to another.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from genlm.errors import InputError
from genlm.tasks.cluster.parts import forget_unfinished
from genlm.tasks.cluster.plan import Plan, parts_at_once
from genlm.tasks.cluster.pulse import Office
from genlm.tasks.cluster.source import DIGEST_BYTES, Place, chunks, digests, places
from genlm.tasks.cluster.worker import Worker

# Reading takes little, and each reader is a process of its own.
WORKERS_PER_READER = 8
# To start processes takes as long as to read so much.
QUICK_BYTES = 32 << 20


class Files(Datasource):
    """One stream of tables for each file."""

    def __init__(self, count: int, read: Callable[[int], Iterator[pa.Table]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = count
        self._read = read

    def estimate_inmemory_data_size(self) -> int | None:
        """It is not known before it is read."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> Any:
        """A task for each file, for a compressed file or a table can only be read from its beginning."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(self._read, file), unknown) for file in range(self._count)]


class Making:
    """A worker as an actor of Ray Data. It writes its parts itself: what it has made is not lost with its machine."""

    def __init__(self, plan: Plan, office: Office) -> None:
        self._folder = plan.folder
        self._worker = Worker(plan, office)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Write the part of the one chunk that a batch is. Returns how many rows it has, and how many have failed."""
        (chunk,) = batch["chunk"]
        made = self._worker.make(pickle.loads(chunk))
        if made.data is not None:
            self._folder.write(made.part, made.data)
            forget_unfinished(self._folder, made.part)
        return {"rows": [made.rows], "failed": [made.failed]}


def make_parts(plan: Plan, size: int, office: Office) -> tuple[int, int]:
    """Make all parts, of `size` rows each. Returns how many rows have a record, and how many of these have failed."""

    def read(file: int) -> Iterator[pa.Table]:
        for chunk in chunks(plan, file, size):
            yield pa.table({"chunk": [pickle.dumps(chunk)]})

    resources, at_once = plan.resources, parts_at_once(size)
    made = _hold_or_read(plan, read, max(1, resources.workers // WORKERS_PER_READER)).map_batches(
        Making,
        fn_constructor_args=(plan, office),
        batch_size=1,
        compute=ActorPoolStrategy(
            size=resources.workers,
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
    )
    done = failed = 0
    for part in made.iter_rows():
        done, failed = done + part["rows"], failed + part["failed"]
    return done, failed


def count_rows(plan: Plan) -> tuple[int, ...]:
    """How many rows each file has.

    Raises:
        InputError: two rows with one id, as what a file's reading raises.
    """
    import numpy as np

    def read(file: int) -> Iterator[pa.Table]:
        for some in digests(plan, file):
            yield pa.table({"file": [file], "digests": [some]})

    counts, seen = [0] * len(plan.files), [np.empty(0, "V8")]
    for row in _gather(plan, read):
        counts[row["file"]] += len(row["digests"]) // DIGEST_BYTES
        seen.append(np.frombuffer(row["digests"], np.uint64))
    every = np.sort(np.concatenate(seen[1:])) if len(seen) > 1 else np.empty(0, np.uint64)
    twice = np.unique(every[1:][every[1:] == every[:-1]])
    if len(twice):
        _check_ids(plan, {each.tobytes() for each in twice})
    return tuple(counts)


def _check_ids(plan: Plan, suspects: set[bytes]) -> None:
    """Raise InputError where ids whose digests are the same are the same themselves."""

    def read(file: int) -> Iterator[pa.Table]:
        for place in places(plan, file, suspects):
            yield pa.table({name: [value] for name, value in place._asdict().items()})

    found = sorted((Place(**row) for row in _gather(plan, read)), key=lambda each: (each.file, each.row))
    first: dict[str, Place] = {}
    for place in found:
        if place.id in first:
            raise InputError(
                f"two rows have the id {place.id!r}: {first[place.id].where} and {place.where}",
                hint=f"each needs one of its own in {plan.fields.id!r}",
            )
        first[place.id] = place


def _gather(plan: Plan, read: Callable[[int], Iterator[pa.Table]]) -> Iterator[dict[str, Any]]:
    """All rows of what is read of each file: here where that is quick, else by the cluster."""
    if _is_quick(plan):
        for table in _tables(plan, read):
            yield from table.to_pylist()
    else:
        yield from _read(plan, read, min(len(plan.files), plan.resources.workers)).iter_rows()


def _hold_or_read(plan: Plan, read: Callable[[int], Iterator[pa.Table]], readers: int) -> Dataset:
    """What is read of each file, as a dataset: held here where it is little, else read by the cluster as it goes."""
    few = _few_rows(plan, read) if _is_quick(plan) else None
    if not few:
        return _read(plan, read, readers)
    _choose_manners()
    held: Dataset = ray.data.from_items(few, override_num_blocks=len(few))
    return held


def _few_rows(plan: Plan, read: Callable[[int], Iterator[pa.Table]]) -> list[dict[str, Any]] | None:
    """All that is read of the files, or None where it is more than files of their size let expect."""
    rows, size = [], 0
    for table in _tables(plan, read):
        rows += table.to_pylist()
        size += table.nbytes
        if size > QUICK_BYTES:
            return None
    return rows


def _tables(plan: Plan, read: Callable[[int], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    for file in range(len(plan.files)):
        yield from read(file)


def _is_quick(plan: Plan) -> bool:
    return sum(file.path.stat().st_size for file in plan.files) < QUICK_BYTES


def _read(plan: Plan, read: Callable[[int], Iterator[pa.Table]], readers: int) -> Dataset:
    """What is read of each file by the cluster, as a dataset of one table after the other."""
    _choose_manners()
    source = Files(len(plan.files), read)
    rows: Dataset = ray.data.read_datasource(
        source, num_cpus=0, concurrency=readers, override_num_blocks=len(plan.files)
    )
    return rows


def _choose_manners() -> None:
    """How Ray Data is to treat the datasets that are made from now on."""
    context = DataContext.get_current()
    # Tables are passed on one by one, as they are read.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    # A chunk is small beside the work that it is, wherever it lies.
    context.execution_options.actor_locality_enabled = False
