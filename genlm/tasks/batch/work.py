"""The unit of work: jobs in, a record for each out, in the order they finish.

Jobs and records are plain data that can be pickled, and nothing is shared: the same function runs on one machine or
on each of many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from genlm.decoding.completion import Completion, Failed
from genlm.decoding.dispatch import decode_many, make_scheduler
from genlm.decoding.request import Request
from genlm.errors import GenlmError, InputError
from genlm.model.memory import is_out_of_memory
from genlm.records.batch import BatchModel, BatchRecord
from genlm.records.made_by import Versions
from genlm.tasks.batch.jobs import Job
from genlm.tasks.generate import encode_prompt, make_request

if TYPE_CHECKING:
    from genlm.model.load import Model


def run_jobs(
    model: Model,
    jobs: Iterable[Job],
    *,
    batch_size: int | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[BatchRecord]:
    """Yield a record for every job, as it finishes: what `genlm generate` gives for its prompt alone, or an error.

    At most `batch_size` sequences run at once; None means as many as pay and fit in memory. Once `is_stopping`
    returns true, running jobs finish and no others start. An iterator of jobs that has ended is asked again while
    anything is running.
    """
    # A map can be asked again after its end; a generator cannot.
    requests = map(partial(_request, model), jobs)
    scheduler = make_scheduler(model.network, batch_size)
    for running, event in decode_many(scheduler, requests, is_stopping):
        if isinstance(event, Completion):
            running.completions.append(event)
            if len(running.completions) == running.job.settings.limits.num_return_sequences:
                yield _record(running.job, model, running.completions)
        elif isinstance(event, Failed):
            yield _record(running.job, model, error=_reason(event.error))


def model_of(model: Model) -> BatchModel:
    """Return what a record says about the model that made it."""
    info = model.info
    return BatchModel(info.name, info.revision, info.fingerprint, info.dtype)


@dataclass(eq=False)
class _RunningJob:
    """A job and the completions that it has so far."""

    job: Job
    completions: list[Completion] = field(default_factory=list)


def _request(model: Model, job: Job) -> tuple[_RunningJob, Request | Failed]:
    """Return the request for a job, or its failure if the model cannot run it."""
    settings = job.settings
    try:
        if job.error is not None:
            raise InputError(job.error)
        ids = encode_prompt(model, job.prompt or "", settings.limits)
        request = make_request(
            model, ids, settings.strategy, settings.limits, settings.seed, deterministic=settings.deterministic
        )
    except GenlmError as error:
        return _RunningJob(job), Failed(error)
    return _RunningJob(job), request


def _record(job: Job, model: Model, completions: Iterable[Completion] = (), *, error: str | None = None) -> BatchRecord:
    return BatchRecord(
        id=job.id,
        prompt=job.prompt,
        completions=tuple(sorted(completions, key=lambda each: each.index)),
        **vars(job.settings.provenance(model_of(model))),
        made_by=Versions.installed(),
        columns=dict(job.columns),
        error=None if error is None else job.row_error(error),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, GenlmError):
        # A message may quote the row.
        return str(error).encode(errors="backslashreplace").decode()
    if is_out_of_memory(error):
        return "out of memory"
    return f"unexpected {type(error).__name__}: {error}"
