"""From a row of a file to a job: an id, a prompt, and the settings that it runs with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError
from genlm.formats.rows import InputFile, InputRow
from genlm.formats.template import Template
from genlm.records import RowError
from genlm.tasks.generate import Limits, check_count

OVERRIDES = ("strategy", "seed", "max_new_tokens")


@dataclass(frozen=True)
class Settings:
    """All that a completion depends on beside the model and the prompt."""

    strategy: Strategy
    seed: int
    limits: Limits
    deterministic: bool = False

    def __post_init__(self) -> None:
        check_count(self.strategy, self.limits)


@dataclass(frozen=True)
class Job:
    """A prompt to be continued, or a row that cannot be: then `error` says why, and `prompt` is None."""

    id: str | int
    prompt: str | None
    settings: Settings
    columns: Mapping[str, Any]
    source: str
    row: int
    line: int | None
    error: str | None = None

    def where(self, message: str) -> RowError:
        """An error of this row."""
        return {"message": message, "file": self.source, "row": self.row, "line": self.line}


@dataclass(frozen=True)
class Fields:
    """Which columns of a row hold what."""

    prompt: str = "prompt"
    id: str = "id"
    template: Template | None = None

    @property
    def needed(self) -> Sequence[str]:
        """The columns that a prompt is made of."""
        return self.template.columns if self.template else [self.prompt]


def read_jobs(files: Iterable[InputFile], fields: Fields, settings: Settings) -> Iterator[Job]:
    """The jobs of files of rows, in their order.

    Raises:
        InputError: a file that cannot be read, or a table without a column that is needed.
    """
    files = list(files)
    for file, name in zip(files, names_of(files), strict=True):
        yield from read_file(file, name, fields, settings)


def read_file(file: InputFile, name: str, fields: Fields, settings: Settings) -> Iterator[Job]:
    """The jobs of one of them; `name` is what `names_of` has for it. Raises as `read_jobs`."""
    for row in file.rows():
        if file.format in ("csv", "tsv", "parquet") and row.error is None:
            _check_columns(row, fields)
        yield _job(row, name, fields, settings)


def names_of(files: Sequence[InputFile]) -> list[str]:
    """What ids begin with where a row has none: the files' names, with their folders where these tell them apart."""
    names = [Path(file.name).name for file in files]
    return names if len(set(names)) == len(names) else [file.name for file in files]


def _check_columns(row: InputRow, fields: Fields) -> None:
    for column in fields.needed:
        if column not in row.columns:
            has = ", ".join(row.columns) or "no columns"
            raise InputError(
                f"{row.source} has no column {column!r}", hint=f"it has {has}; --prompt-field names another"
            )


def _job(row: InputRow, name: str, fields: Fields, settings: Settings) -> Job:
    own: dict[str, Any] = dict(row.columns)
    id = own.pop(fields.id, None)
    job = Job(f"{name}:{row.number}", None, settings, own, row.source, row.number, row.line, row.error)
    if row.error is not None:
        return job
    if id is not None and id != "":
        if isinstance(id, bool) or not isinstance(id, (str, int)):
            return replace(job, error=f"{fields.id!r} is {_shown(id)}, where text or a whole number must be")
        if isinstance(id, str) and not _is_text(id):
            return replace(job, error=f"{fields.id!r} is not valid Unicode")
        job = replace(job, id=id)
    try:
        return replace(job, settings=_overridden(settings, own), prompt=_prompt(own, fields), columns=own)
    except (ValueError, UsageError) as error:
        return replace(job, error=str(error))


def _prompt(own: dict[str, Any], fields: Fields) -> str:
    """The prompt of a row, whose column is taken out where it is one."""
    if fields.template is not None:
        prompt = fields.template.fill(own)
    else:
        if own.get(fields.prompt) is None:
            raise ValueError(f"{fields.prompt!r} is {'null' if fields.prompt in own else 'missing'}")
        prompt = own.pop(fields.prompt)
        if not isinstance(prompt, str):
            raise ValueError(f"{fields.prompt!r} is {_shown(prompt)}, where text must be")
    if not _is_text(prompt):
        raise ValueError("the prompt is not valid Unicode: it holds half of a surrogate pair")
    return prompt


def _overridden(settings: Settings, own: dict[str, Any]) -> Settings:
    """The settings with what a row has of its own, which is taken out. Raises UsageError where that makes no sense."""
    given = {name: own.pop(name) for name in OVERRIDES if name in own}
    given = {name: value for name, value in given.items() if value is not None and value != ""}
    if not given:
        return settings
    spec, seed, new = (given.get(name) for name in OVERRIDES)
    if spec is not None and not isinstance(spec, str):
        raise UsageError(f"strategy is {_shown(spec)}, where a spec such as top-k:top_k=40 must be")
    return _settings_with(settings, spec, _whole("seed", seed), _whole("max_new_tokens", new))


@lru_cache(maxsize=1024)
def _settings_with(settings: Settings, spec: str | None, seed: int | None, new: int | None) -> Settings:
    limits = settings.limits if new is None else replace(settings.limits, max_new_tokens=new)
    return Settings(
        settings.strategy if spec is None else Strategy.parse(spec),
        settings.seed if seed is None else seed,
        limits,
        settings.deterministic,
    )


def _whole(name: str, value: Any) -> int | None:
    """A whole number, which tables may hold as text."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        if isinstance(value, str):
            return int(value)
    except ValueError:
        pass
    raise UsageError(f"{name} is {_shown(value)}, where a whole number must be")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
