"""The data flow through a cluster, with Ray Data: files are read in chunks, and workers turn chunks into parts.

Only a few chunks are in flight at any time, so memory use stays flat. Ray Data gives the work of a lost worker or
machine to another.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from genlm.formats.folder import open_folder
from genlm.tasks.batch.run import DIGEST_BYTES, Plan, same_id
from genlm.tasks.cluster.parts import UNFINISHED, IdLocation, chunks_at_once, find_ids, read_chunks, read_digests
from genlm.tasks.cluster.worker import Coordinator, Resources, Worker

# Reading is cheap, and each reader is a separate process.
WORKERS_PER_READER = 8
# Starting processes takes as long as reading this much.
QUICK_BYTES = 32 << 20


class Files(Datasource):
    """One stream of tables for each file."""

    def __init__(self, count: int, read: Callable[[int], Iterator[pa.Table]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = count
        self._read = read

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: the size is not known before reading."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> Any:
        """Return a task for each file. Compressed files and tables can only be read from the beginning."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(self._read, file), unknown) for file in range(self._count)]


class PartWriter:
    """A worker as an actor of Ray Data. It writes its parts itself, so they survive the loss of its machine."""

    def __init__(self, plan: Plan, coordinator: Coordinator) -> None:
        self._folder = open_folder(plan.output)
        self._worker = Worker(plan, coordinator)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Write the part of the only chunk in a batch. Return how many rows it has, and how many have an error."""
        (chunk,) = batch["chunk"]
        result = self._worker.make(pickle.loads(chunk))
        if result.data is not None:
            self._folder.write(result.part, result.data)
            self._folder.remove(f"{UNFINISHED}/{result.part}")
        return {"rows": [result.rows], "failed": [result.failed]}


@dataclass(frozen=True)
class Reader:
    """Reads something of each of a plan's files, in tables: here if they are small, else on the cluster."""

    plan: Plan
    read: Callable[[int], Iterator[pa.Table]]

    def rows(self, readers: int) -> Iterator[dict[str, Any]]:
        """Yield all rows, from the cluster if the files are large."""
        if self._is_quick():
            for table in self._tables():
                yield from table.to_pylist()
        else:
            yield from self._dataset(readers).iter_rows()

    def dataset(self, readers: int) -> Dataset:
        """Return all rows as a dataset, read in advance if the files are small."""
        rows = self._few_rows() if self._is_quick() else None
        if not rows:
            return self._dataset(readers)
        _configure_ray_data()
        held: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        return held

    def _few_rows(self) -> list[dict[str, Any]] | None:
        """Return all rows, or None if they are larger than the size of the files suggests."""
        rows, size = [], 0
        for table in self._tables():
            rows += table.to_pylist()
            size += table.nbytes
            if size > QUICK_BYTES:
                return None
        return rows

    def _tables(self) -> Iterator[pa.Table]:
        for file in range(len(self.plan.files)):
            yield from self.read(file)

    def _is_quick(self) -> bool:
        return sum(file.path.stat().st_size for file in self.plan.files) < QUICK_BYTES

    def _dataset(self, readers: int) -> Dataset:
        _configure_ray_data()
        count = len(self.plan.files)
        rows: Dataset = ray.data.read_datasource(
            Files(count, self.read), num_cpus=0, concurrency=min(count, readers), override_num_blocks=count
        )
        return rows


def make_parts(plan: Plan, resources: Resources, size: int, coordinator: Coordinator) -> tuple[int, int]:
    """Make all parts, of `size` rows each. Return how many rows have a record, and how many of those an error."""

    def read(file: int) -> Iterator[pa.Table]:
        for chunk in read_chunks(plan, file, size):
            yield pa.table({"chunk": [pickle.dumps(chunk)]})

    at_once = chunks_at_once(size)
    chunks = Reader(plan, read).dataset(max(1, resources.workers // WORKERS_PER_READER))
    parts = chunks.map_batches(
        PartWriter,
        fn_constructor_args=(plan, coordinator),
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
    for part in parts.iter_rows():
        done, failed = done + part["rows"], failed + part["failed"]
    return done, failed


def count_rows(plan: Plan, resources: Resources) -> tuple[int, ...]:
    """Return how many rows each file has.

    Raises:
        InputError: two rows with the same id, or a file that cannot be read.
    """
    import numpy as np

    def read(file: int) -> Iterator[pa.Table]:
        for digests in read_digests(plan, file):
            yield pa.table({"file": [file], "digests": [digests]})

    counts, found = [0] * len(plan.files), [np.empty(0, np.uint64)]
    for row in Reader(plan, read).rows(resources.workers):
        counts[row["file"]] += len(row["digests"]) // DIGEST_BYTES
        found.append(np.frombuffer(row["digests"], np.uint64))
    every = np.sort(np.concatenate(found))
    twice = np.unique(every[1:][every[1:] == every[:-1]])
    if len(twice):
        _check_ids(plan, resources, {each.tobytes() for each in twice})
    return tuple(counts)


def _check_ids(plan: Plan, resources: Resources, digests: set[bytes]) -> None:
    """Raise InputError if two ids with one of these digests are the same."""

    def read(file: int) -> Iterator[pa.Table]:
        for location in find_ids(plan, file, digests):
            yield pa.table({name: [value] for name, value in location._asdict().items()})

    rows = Reader(plan, read).rows(resources.workers)
    first: dict[str, IdLocation] = {}
    for location in sorted((IdLocation(**row) for row in rows), key=lambda each: (each.file, each.row)):
        if location.id in first:
            raise same_id(location.id, first[location.id].place, location.place, plan.columns.id)
        first[location.id] = location


def _configure_ray_data() -> None:
    """Set how Ray Data treats the datasets that are created from now on."""
    context = DataContext.get_current()
    # Pass tables on one by one, as they are read.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    # Moving a chunk costs little compared with the work it contains. Newer versions of Ray deprecate the option.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.execution_options.actor_locality_enabled = False
