"""The coordinator: it runs a batch from inside the cluster and knows its progress."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from genlm.errors import ClusterError, GenlmError
from genlm.formats.folder import LocalFolder, RemoteFolder, open_folder
from genlm.records.batch import BatchModel, ClusterState, RowError
from genlm.records.made_by import Versions
from genlm.tasks.batch.run import Plan, check_same
from genlm.tasks.cluster.parts import (
    UNFINISHED,
    Manifest,
    check_files,
    check_output,
    choose_seed,
    forget_parts,
    rows_per_chunk,
)
from genlm.tasks.cluster.worker import HEARTBEAT_S, Report, Resources

# A worker that has not reported for this long counts as dead.
ALIVE_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a batch ended: `done` rows have a record, `failed` of these an error. `error` ended it early."""

    done: int = 0
    failed: int = 0
    error: GenlmError | None = None


class CoordinatorActor:
    """The coordinator as a Ray actor. `run` runs in a thread, beside the other methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manifest: Manifest | None = None
        self._folder: LocalFolder | RemoteFolder | None = None
        self._done: dict[str, int] = {}
        self._made = self._tokens = 0
        self._errors: list[RowError] = []
        self._notices: list[str] = []
        # For each worker the time of its last report, and whether it was idle.
        self._reported: dict[str, tuple[float, bool]] = {}
        # The times of the first and the last record.
        self._first = self._last = 0.0
        self._is_stopping = False
        self._ended: Future[Outcome] = Future()

    def run(self, plan: Plan, resources: Resources) -> Outcome:
        """Run a batch to its end. An error is part of the outcome."""
        try:
            with open_folder(plan.output).locked():
                self._ended.set_result(self._run(plan, resources))
        except Exception as error:
            self._ended.set_result(Outcome(error=_explain(error)))
        return self.outcome()

    def outcome(self) -> Outcome:
        """Wait for the outcome of `run`, for a caller that lost its connection."""
        return self._ended.result()

    def check_model(self, model: BatchModel) -> None:
        """See Coordinator."""
        with self._lock:
            assert self._manifest is not None
            assert self._folder is not None
            then = self._manifest.made_with
            now = replace(then, model=model)
            check_same(then, now, self._folder.place)
            if then.model.dtype is None:
                self._manifest = replace(self._manifest, made_with=now)
                self._manifest.write(self._folder)

    def report(self, report: Report) -> bool:
        """See Coordinator."""
        with self._lock:
            self._reported[report.worker] = (time.monotonic(), report.is_idle)
            self._done |= report.rows
            self._tokens += report.tokens
            self._made += report.made
            self._errors += report.errors
            self._notices += report.notices
            if report.made:
                self._last = time.monotonic()
                self._first = self._first or self._last - HEARTBEAT_S
            return self._is_stopping

    def look(self) -> ClusterState:
        """Return the progress."""
        with self._lock:
            now = time.monotonic()
            alive = [is_idle for reported, is_idle in self._reported.values() if now - reported < ALIVE_S]
            errors, self._errors = self._errors, []
            notices, self._notices = self._notices, []
            return ClusterState(
                rows=None if self._manifest is None else self._manifest.total,
                done=sum(self._done.values()),
                made=self._made,
                tokens=self._tokens,
                seconds=self._last - self._first,
                workers=len(alive),
                busy=alive.count(False),
                errors=errors,
                notices=notices,
            )

    def stop(self) -> None:
        """Let the workers finish and keep the running prompts, and start no others."""
        self._is_stopping = True

    def _run(self, plan: Plan, resources: Resources) -> Outcome:
        # Imported lazily: Ray Data is slow to import, and the other methods do not need it.
        from genlm.tasks.cluster.pipeline import make_parts

        folder = open_folder(plan.output)
        before = check_output(plan, folder)
        plan = replace(plan, settings=choose_seed(plan, before))
        manifest = self._prepare(plan, resources, folder, before)
        with self._lock:
            self._manifest, self._folder = manifest, folder
        coordinator = RemoteCoordinator(ray.get_runtime_context().current_actor)
        done, failed = make_parts(plan, resources, manifest.rows_per_part, coordinator)
        if self._is_stopping:
            return Outcome(done, failed)
        if done != manifest.total:
            raise ClusterError(
                f"{manifest.total:,} rows were counted, but {done:,} have a record: a file changed during the run"
            )
        replace(self._manifest, done=done, failed=failed).write(folder)
        folder.remove(UNFINISHED)
        return Outcome(done, failed)

    def _prepare(
        self, plan: Plan, resources: Resources, folder: LocalFolder | RemoteFolder, before: Manifest | None
    ) -> Manifest:
        """Return the manifest of this run, written before anything else is."""
        from genlm.tasks.cluster.pipeline import count_rows

        files, rows = tuple(file.name for file in plan.files), count_rows(plan, resources)
        if before is None:
            forget_parts(folder)
            manifest = Manifest(
                files, rows, rows_per_chunk(sum(rows), resources.workers), plan.provenance, Versions.installed()
            )
        else:
            check_files(before, files, rows, plan.output)
            now = Versions.installed()
            if before.made_by != now:
                self._notices.append(f"{plan.output} has records made by {before.made_by}; this is {now}")
            manifest = replace(before, rows=rows, made_by=now, done=None, failed=None)
        manifest.write(folder)
        return manifest


class RemoteCoordinator:
    """The coordinator as its workers see it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def check_model(self, model: BatchModel) -> None:
        """See Coordinator."""
        try:
            ray.get(self._actor.check_model.remote(model))
        except RayError as error:
            raise _explain(error) from error

    def report(self, report: Report) -> bool:
        """See Coordinator. If the coordinator is gone, nobody is left to work for."""
        try:
            return bool(ray.get(self._actor.report.remote(report), timeout=ALIVE_S))
        except GetTimeoutError:
            return False
        except RayError:
            return True


def _explain(error: BaseException) -> GenlmError:
    """Return the error to show to the user for one that came through the cluster."""
    while True:
        if isinstance(error, GenlmError) and not isinstance(error, RayError):
            return error
        cause = getattr(error, "cause", None) or error.__cause__
        if cause is None:
            first_line = str(error).strip().partition("\n")[0]
            return ClusterError(f"{type(error).__name__}: {first_line}", code="ray-failed")
        error = cause
