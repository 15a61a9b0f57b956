"""Conducts a batch from within the cluster, and knows at any time how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from genlm.errors import ClusterError, GenlmError
from genlm.formats.folder import LocalFolder, RemoteFolder
from genlm.records.batch import BatchModel, RowError
from genlm.records.cluster import ClusterState
from genlm.tasks.cluster.manifest import (
    NAME,
    Manifest,
    check_files,
    check_same,
    made_by,
    made_with,
    settled,
)
from genlm.tasks.cluster.parts import UNFINISHED
from genlm.tasks.cluster.plan import Plan, rows_per_part
from genlm.tasks.cluster.prepare import check_output
from genlm.tasks.cluster.pulse import PULSE_S, Report

# A worker that was not heard of for so long is taken for dead.
ALIVE_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a batch ended: so many rows have a record, so many of these an error. `error` ended it before its end."""

    done: int = 0
    failed: int = 0
    error: GenlmError | None = None


class Conductor:
    """An actor; `run` runs in a thread of its own, beside which the others answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manifest: Manifest | None = None
        self._folder: LocalFolder | RemoteFolder | None = None
        self._done: dict[str, int] = {}
        self._made = self._tokens = 0
        self._errors: list[RowError] = []
        self._heard: dict[str, tuple[float, bool]] = {}
        # When the first record came, and the last.
        self._began = self._latest = 0.0
        self._is_stopping = False
        self._ended: Future[Outcome] = Future()

    def run(self, plan: Plan) -> Outcome:
        """Run a batch to its end. An error is part of the outcome."""
        try:
            with plan.folder.locked():
                self._ended.set_result(self._run(plan))
        except Exception as error:
            self._ended.set_result(Outcome(error=_explained(error)))
        return self.outcome()

    def outcome(self) -> Outcome:
        """Wait for the end that `run` comes to, for one who was cut off from it."""
        return self._ended.result()

    def check_model(self, model: BatchModel) -> None:
        """See Office."""
        with self._lock:
            assert self._manifest is not None
            assert self._folder is not None
            now = made_by(model)
            check_same(self._manifest.made_with, now, self._folder.place)
            if self._manifest.made_with["dtype"] is None:
                self._manifest = replace(self._manifest, made_with={**self._manifest.made_with, **now})
                self._manifest.write(self._folder)

    def report(self, report: Report) -> bool:
        """See Office."""
        with self._lock:
            self._heard[report.worker] = (time.monotonic(), report.is_idle)
            self._done |= report.rows
            self._tokens += report.tokens
            self._made += report.made
            self._errors += report.errors
            if report.made:
                self._latest = time.monotonic()
                self._began = self._began or self._latest - PULSE_S
            return self._is_stopping

    def look(self) -> ClusterState:
        """How far it is."""
        with self._lock:
            now = time.monotonic()
            alive = [is_idle for heard, is_idle in self._heard.values() if now - heard < ALIVE_S]
            errors, self._errors = self._errors, []
            return ClusterState(
                None if self._manifest is None else self._manifest.total,
                sum(self._done.values()),
                self._made,
                self._tokens,
                self._latest - self._began,
                len(alive),
                alive.count(False),
                errors,
            )

    def stop(self) -> None:
        """Let the workers finish what is under way, keep it, and begin nothing else."""
        self._is_stopping = True

    def _run(self, plan: Plan) -> Outcome:
        # Here, for who asks for a conductor is not to wait for Ray Data.
        from genlm.tasks.cluster.pipeline import make_parts

        folder = plan.folder
        before = check_output(plan, folder)
        plan = replace(plan, settings=settled(plan.settings, before, has_seed=plan.has_seed))
        manifest = self._prepare(plan, folder, before)
        with self._lock:
            self._manifest, self._folder = manifest, folder
        done, failed = make_parts(plan, manifest.rows_per_part, RemoteOffice(_myself()))
        if self._is_stopping:
            return Outcome(done, failed)
        if done != manifest.total:
            raise ClusterError(
                f"{manifest.total:,} rows were counted, and {done:,} have a record: a file has changed meanwhile"
            )
        replace(self._manifest, done=done, failed=failed).write(folder)
        folder.remove(UNFINISHED)
        return Outcome(done, failed)

    def _prepare(self, plan: Plan, folder: LocalFolder | RemoteFolder, before: Manifest | None) -> Manifest:
        """The manifest of this run, written before anything else is."""
        from genlm.tasks.cluster.pipeline import count_rows

        files, rows = tuple(file.name for file in plan.files), count_rows(plan)
        now = made_with(plan.settings, plan.model.known)
        if before is None:
            forget_parts(folder)
            manifest = Manifest(files, rows, rows_per_part(sum(rows), plan.resources.workers), now)
        else:
            check_files(before, files, rows, plan.output)
            manifest = replace(before, rows=rows, done=None, failed=None)
        manifest.write(folder)
        return manifest


class RemoteOffice:
    """The conductor as its workers know it."""

    def __init__(self, conductor: Any) -> None:
        self._conductor = conductor

    def check_model(self, model: BatchModel) -> None:
        """See Office."""
        try:
            ray.get(self._conductor.check_model.remote(model))
        except RayError as error:
            raise _explained(error) from error

    def report(self, report: Report) -> bool:
        """See Office. Nobody is left to work for where the conductor is gone."""
        try:
            return bool(ray.get(self._conductor.report.remote(report), timeout=ALIVE_S))
        except GetTimeoutError:
            return False
        except RayError:
            return True


def forget_parts(folder: LocalFolder | RemoteFolder) -> None:
    """Take away the manifest and all parts, the manifest first: without it the rest is nothing."""
    for name in (NAME, UNFINISHED, *(name for name in folder.names() if name.startswith("part-"))):
        folder.remove(name)


def _myself() -> Any:
    return ray.get_runtime_context().current_actor


def _explained(error: BaseException) -> GenlmError:
    """What a user is told of an error that came through the cluster."""
    for each in _causes(error):
        if isinstance(each, GenlmError) and not isinstance(each, RayError):
            return each
    last = list(_causes(error))[-1]
    return ClusterError(f"{type(last).__name__}: {_first_line(last)}", hint="--verbose shows what Ray says of it")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
