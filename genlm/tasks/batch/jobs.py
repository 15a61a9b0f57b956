"""Rows of files become jobs, and jobs become records.

Jobs and records are plain data that can be pickled, and nothing is shared: the same functions run on one machine or on
each of many.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from string import Formatter
from typing import TYPE_CHECKING, Any

from genlm.decoding.completion import Completion, Failed
from genlm.decoding.dispatch import decode_many, make_scheduler
from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.errors import GenlmError, InputError, UsageError
from genlm.formats.files import is_unicode
from genlm.formats.rows import Format, InputFile, InputRow
from genlm.model.memory import is_out_of_memory
from genlm.records.batch import BatchModel, BatchRecord, Provenance, RowError
from genlm.records.made_by import Versions
from genlm.tasks.generate import Limits, check_count, encode_prompt, make_request

if TYPE_CHECKING:
    from genlm.model.load import Model

# Larger floats do not hold every whole number exactly.
LARGEST_EXACT = 2**53
# Integers of tables and of msgspec have 64 bits, with a sign or without.
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**64 - 1
DEEPEST = 100
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}
OVERRIDES = ("strategy", "seed", "max_new_tokens")


@dataclass(frozen=True)
class BatchSettings:
    """Everything a completion depends on except the model and the prompt."""

    strategy: Strategy
    seed: int
    limits: Limits
    deterministic: bool = False

    def __post_init__(self) -> None:
        check_count(self.strategy, self.limits)

    def provenance(self, model: BatchModel) -> Provenance:
        """Return the provenance of records that `model` makes with these settings."""
        return Provenance(
            model,
            self.strategy.spec,
            self.seed,
            self.limits.max_new_tokens,
            self.limits.num_return_sequences,
            self.limits.stop,
            self.limits.overflow,
            self.deterministic,
        )


@dataclass(frozen=True)
class Job:
    """A prompt to continue, or a row that cannot be, with the reason in `error`."""

    id: str | int
    prompt: str | None
    settings: BatchSettings
    columns: Mapping[str, Any]
    source: str
    row: int
    line: int | None
    error: str | None = None

    def row_error(self, message: str) -> RowError:
        """Return an error that names this row."""
        return RowError(message, self.source, self.row, self.line)


def unescape(text: str) -> str:
    r"""Return the text with `\n`, `\r` and `\t` replaced by line breaks and tabs, and `\\` by a backslash."""
    return re.sub(r"\\[ntr\\]", lambda match: ESCAPES[match[0]], text)


@dataclass(frozen=True)
class Template:
    """Text with `{column}` for the value of a column; `{{` and `}}` are braces.

    Raises:
        UsageError: a brace is not closed, there is anything but a column's name between two, no column is named, or the
            text is not valid Unicode.
    """

    text: str

    def __post_init__(self) -> None:
        if _unwritable(self.text):
            raise UsageError("the template is not valid Unicode")
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            raise UsageError(f"the template cannot be read: {error}") from error
        for _, name, spec, conversion in parts:
            if name == "" or spec or conversion or re.search(r"[.\[\]]", name or ""):
                raise UsageError(
                    f"the template has braces around {name or 'nothing'}, which is not just a column's name",
                    hint="a column is {name}, and {{ stands for a brace",
                )
        if not self.columns:
            raise UsageError("the template names no column", hint='for example "Title: {title}"')

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return [name for _, name, _, _ in Formatter().parse(self.text) if name]

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the text with the values of a row.

        Raises:
            ValueError: the row does not have a column, or its value is null.
        """
        parts = []
        for text, name, _, _ in Formatter().parse(self.text):
            parts.append(text)
            if name:
                value = values.get(name)
                if value is None:
                    raise ValueError(f"{name!r} is {'null' if name in values else 'missing'}, which the template needs")
                parts.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        return "".join(parts)


@dataclass(frozen=True)
class Columns:
    """Which columns of a row hold the prompt and the id."""

    prompt: str = "prompt"
    id: str = "id"
    template: Template | None = None

    @property
    def needed(self) -> Sequence[str]:
        """The columns that make a prompt."""
        return self.template.columns if self.template else [self.prompt]


def read_jobs(files: Sequence[InputFile], columns: Columns, settings: BatchSettings) -> Iterator[Job]:
    """Yield the jobs of files of rows, in order.

    Raises:
        InputError: a file that cannot be read, or a text or table without a column that is needed.
    """
    for file, name in zip(files, id_prefixes(files), strict=True):
        yield from read_file_jobs(file, name, columns, settings)


def read_file_jobs(file: InputFile, prefix: str, columns: Columns, settings: BatchSettings) -> Iterator[Job]:
    """Yield the jobs of one file; `prefix` is its entry in `id_prefixes`. Raise as `read_jobs` does."""
    row = None
    for row in file.rows():
        if file.format != "jsonl" and row.error is None:
            _check_columns(row.source, row.columns, file.format, columns)
        yield _make_job(row, prefix, columns, settings)
    if row is None and (names := file.columns()):
        _check_columns(file.name, names, file.format, columns)


def make_jobs(rows: Iterable[str | Mapping[str, Any]], settings: BatchSettings) -> Iterator[Job]:
    """Yield the jobs of rows in memory: prompts, or objects as a line of JSON holds them."""
    for number, row in enumerate(rows, 1):
        values = {"prompt": row} if isinstance(row, str) else row
        yield _make_job(InputRow("rows", number, None, values), "rows", Columns(), settings)


def id_prefixes(files: Sequence[InputFile]) -> list[str]:
    """Return the start of the default ids of each file's rows: its name, or its path if two files have the same name.

    Folders are separated by `/` on Windows too, so that ids are the same on every system.
    """
    paths = [file.name.replace(os.sep, "/") for file in files]
    names = [path.rpartition("/")[2] for path in paths]
    return names if len(set(names)) == len(names) else paths


def _check_columns(source: str, names: Collection[str], format: Format, columns: Columns) -> None:
    needs_id = format != "txt" and columns.id != Columns.id
    for column in [*columns.needed, *([columns.id] if needs_id else [])]:
        if column not in names:
            has = ", ".join(names) or "no columns"
            code = "prompt-column" if column in columns.needed else "id-column"
            raise InputError(f"{source} has no column {column!r}", hint=f"it has {has}", code=code)


def _make_job(row: InputRow, prefix: str, columns: Columns, settings: BatchSettings) -> Job:
    values, error = _split_unwritable(row.columns)
    others = dict(values)
    id: str | int = f"{prefix}:{row.number}"
    prompt = None
    try:
        id = _take_id(others, columns.id, id)
        prompt = _take_prompt(others, values, columns)
        settings = _take_overrides(others, settings)
    except (ValueError, UsageError) as problem:
        error = error or str(problem)
    return Job(id, prompt, settings, others, row.source, row.number, row.line, row.error or error)


def _split_unwritable(columns: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the columns that every output format can hold, and what is wrong with the first other column, if any."""
    writable, error = {}, None
    for name, value in columns.items():
        problem = _unwritable(name) or _unwritable(value)
        if problem is None:
            writable[name] = value
        else:
            error = error or f"column {name!r} {problem}"
    return writable, error


def _take_id(values: dict[str, Any], column: str, default: str | int) -> str | int:
    """Remove and return the id of a row, or the default. Raise ValueError if the value cannot be an id."""
    id = _exact(values.pop(column, None))
    if id is None or id == "":
        return default
    if isinstance(id, bool) or not isinstance(id, (str, int)):
        raise ValueError(f"{column!r} is {_shown(id)}, not text or a whole number")
    return id


def _take_prompt(others: dict[str, Any], values: Mapping[str, Any], columns: Columns) -> str:
    """Return the prompt of a row, removing it from `others` unless a template makes it.

    Raises:
        ValueError: a row without a prompt.
    """
    if columns.template is not None:
        return columns.template.fill(values)
    others.pop(columns.prompt, None)
    prompt = values.get(columns.prompt)
    if prompt is None:
        raise ValueError(f"{columns.prompt!r} is {'null' if columns.prompt in values else 'missing'}")
    if not isinstance(prompt, str):
        raise ValueError(f"{columns.prompt!r} is {_shown(prompt)}, not text")
    return prompt


def _unwritable(value: Any) -> str | None:
    """Return why some output format cannot hold a value that JSON can, or None if all can."""
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, str):
                if not is_unicode(each):
                    return "is not valid Unicode: it holds half of a surrogate pair"
            elif isinstance(each, int):
                if not SMALLEST_INTEGER <= each <= LARGEST_INTEGER:
                    return "holds an integer beyond 64 bits"
            elif isinstance(each, float):
                if not math.isfinite(each):
                    return "holds a number beyond the range of floats"
            elif isinstance(each, Mapping):
                below += [*each, *each.values()]
            elif isinstance(each, (list, tuple)):
                below += each
        if not below:
            return None
        level = below
    return "is nested too deeply"


def _take_overrides(values: dict[str, Any], settings: BatchSettings) -> BatchSettings:
    """Return the settings with the overrides of a row, which are removed.

    Raises:
        UsageError: an invalid override.
    """
    given = {name: values.pop(name) for name in OVERRIDES if name in values}
    given = {name: value for name, value in given.items() if value is not None and value != ""}
    if not given:
        return settings
    spec, seed, new = (given.get(name) for name in OVERRIDES)
    if spec is not None and not isinstance(spec, str):
        raise UsageError(f"strategy is {_shown(spec)}, not a spec such as top-k:top_k=40")
    return _override(settings, spec, _whole("seed", seed), _whole("max_new_tokens", new))


@lru_cache(maxsize=1024)
def _override(settings: BatchSettings, spec: str | None, seed: int | None, new: int | None) -> BatchSettings:
    limits = settings.limits if new is None else replace(settings.limits, max_new_tokens=new)
    return BatchSettings(
        settings.strategy if spec is None else Strategy.parse(spec),
        settings.seed if seed is None else seed,
        limits,
        settings.deterministic,
    )


def _whole(name: str, value: Any) -> int | None:
    """Return a whole number; a table may hold it as text. Raise UsageError for anything else."""
    number = _exact(_number(value) if isinstance(value, str) else value)
    if number is None or (isinstance(number, int) and not isinstance(number, bool)):
        return number
    raise UsageError(f"{name} is {_shown(value)}, not a whole number")


def _number(text: str) -> int | float | str:
    """Return the number that a text spells, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _exact(value: Any) -> Any:
    """Return a whole float as an int, because many programs write a column as floats if a number in it is missing."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT
    return int(value) if is_whole else value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


# The work.


def run_jobs(
    model: Model,
    jobs: Iterable[Job],
    *,
    batch_size: int | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[BatchRecord]:
    """Yield a record for every job, as it finishes: the completions of `genlm generate` for its prompt, or an error.

    At most `batch_size` sequences run at once; None means as many as pay off and fit in memory. Once `is_stopping`
    returns true, running jobs finish and no others start. While any job is running, jobs may be added to an iterator
    that has ended.
    """
    # A map can continue after its end; a generator cannot.
    requests = map(partial(_request, model), jobs)
    scheduler = make_scheduler(model.network, batch_size)
    for (job, completions), event in decode_many(scheduler, requests, is_stopping):
        if isinstance(event, Completion):
            completions.append(event)
            if len(completions) == job.settings.limits.num_return_sequences:
                yield _record(job, model, completions)
        elif isinstance(event, Failed):
            yield _record(job, model, error=_reason(event.error))


def model_of(model: Model) -> BatchModel:
    """Return what a record says about the model that made it."""
    info = model.info
    return BatchModel(info.name, info.revision, info.fingerprint, info.dtype)


def _request(model: Model, job: Job) -> tuple[tuple[Job, list[Completion]], Request | Failed]:
    """Return a job with a list for its completions, and its request, or its failure if the model cannot run it."""
    settings = job.settings
    try:
        if job.error is not None:
            raise InputError(job.error)
        ids = encode_prompt(model, job.prompt or "", settings.limits.max_new_tokens, settings.limits.overflow)
        request = make_request(
            model, ids, settings.strategy, settings.limits, settings.seed, deterministic=settings.deterministic
        )
    except GenlmError as error:
        return (job, []), Failed(error)
    return (job, []), request


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
