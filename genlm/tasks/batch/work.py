"""The unit of work: jobs in, a record for each out, in the order in which they end.

Jobs and records are plain data and nothing is shared: the same function runs on one machine or on each of many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from genlm.decoding.completion import Completion, Failed
from genlm.decoding.dispatch import decode_many, make_scheduler
from genlm.decoding.request import Request
from genlm.errors import GenlmError, InputError
from genlm.model.memory import is_out_of_memory
from genlm.records.batch import BatchModel, BatchRecord
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
    """A record for every job, as it ends: what `genlm generate` gives for its prompt alone, or what went wrong.

    At most `batch_size` sequences run at once; without it as many as pay and the memory holds. As soon as it
    `is_stopping`, only what is under way is finished. An iterator of jobs that has come to an end is asked again as
    long as anything is under way.
    """
    # A map asks again, which a generator would not.
    requests = map(partial(_requested, model), jobs)
    scheduler = make_scheduler(model.network, batch_size)
    for pending, event in decode_many(scheduler, requests, is_stopping):
        if isinstance(event, Completion):
            pending.completions.append(event)
            if len(pending.completions) == pending.job.settings.limits.num_return_sequences:
                yield _record(pending.job, model, pending.completions)
        elif isinstance(event, Failed):
            yield _record(pending.job, model, error=_reason(event.error))


@dataclass(eq=False)
class _Pending:
    """A job under way, with the completions that it has so far."""

    job: Job
    completions: list[Completion] = field(default_factory=list)


def _requested(model: Model, job: Job) -> tuple[_Pending, Request | Failed]:
    """What the loop is asked for; a job that makes no sense to this model has failed."""
    settings = job.settings
    try:
        if job.error is not None:
            raise InputError(job.error)
        ids = encode_prompt(model, job.prompt or "", settings.limits)
        request = make_request(
            model, ids, settings.strategy, settings.limits, settings.seed, deterministic=settings.deterministic
        )
    except GenlmError as error:
        return _Pending(job), Failed(error)
    return _Pending(job), request


def _record(job: Job, model: Model, completions: Iterable[Completion] = (), *, error: str | None = None) -> BatchRecord:
    settings = job.settings
    return {
        "id": job.id,
        "prompt": job.prompt,
        "completions": [_plain(each) for each in sorted(completions, key=lambda each: each.index)],
        "model": model_of(model),
        "strategy": settings.strategy.spec,
        "seed": settings.seed,
        "max_new_tokens": settings.limits.max_new_tokens,
        "num_return_sequences": settings.limits.num_return_sequences,
        "stop": list(settings.limits.stop),
        "overflow": settings.limits.overflow,
        "deterministic": settings.deterministic,
        "columns": dict(job.columns),
        "error": None if error is None else job.where(error),
    }


def model_of(model: Model) -> BatchModel:
    """What a record says of its model."""
    info = model.info
    return {
        "name": info.name,
        "revision": info.revision,
        "fingerprint": model.fingerprint,
        "dtype": info.dtype,
    }


def _plain(completion: Completion) -> dict[str, Any]:
    return {
        "index": completion.index,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "logprob": completion.logprob,
    }


def _reason(error: Exception) -> str:
    if isinstance(error, GenlmError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory"
    return f"unexpected {type(error).__name__}: {error}"
