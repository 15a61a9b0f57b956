"""From a row of a file to a job: an id, a prompt, and the settings that it runs with."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError
from genlm.formats.rows import Format, InputFile, InputRow
from genlm.formats.template import Template
from genlm.records.batch import RowError
from genlm.tasks.generate import Limits, check_count

# Beyond this a float may not be the number that was written.
LARGEST_EXACT = 2**53
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
    """A prompt to be continued, or a row of which `error` says why it cannot be."""

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
        InputError: a file that cannot be read, or a text or table without a column that is needed.
    """
    files = list(files)
    for file, name in zip(files, names_of(files), strict=True):
        yield from read_file(file, name, fields, settings)


def read_file(file: InputFile, name: str, fields: Fields, settings: Settings) -> Iterator[Job]:
    """The jobs of one of them; `name` is what `names_of` has for it. Raises as `read_jobs`."""
    row = None
    for row in file.rows():
        if file.format != "jsonl" and row.error is None:
            _check_columns(row.source, row.columns, file.format, fields)
        yield _job(row, name, fields, settings)
    if row is None and (columns := file.columns()):
        _check_columns(file.name, columns, file.format, fields)


def given_jobs(rows: Iterable[str | Mapping[str, Any]], settings: Settings) -> Iterator[Job]:
    """The jobs of rows that are at hand: prompts, or objects as a line of JSON holds them."""
    for number, row in enumerate(rows, 1):
        columns = {"prompt": row} if isinstance(row, str) else row
        yield _job(InputRow("rows", number, None, columns), "rows", Fields(), settings)


def names_of(files: Sequence[InputFile]) -> list[str]:
    """What ids begin with if a row has none: the files' names, with their folders if these are needed to differ.

    Folders are separated by `/` on Windows too, so that ids are the same on every system.
    """
    paths = [file.name.replace(os.sep, "/") for file in files]
    names = [path.rpartition("/")[2] for path in paths]
    return names if len(set(names)) == len(names) else paths


def _check_columns(source: str, columns: Collection[str], format: Format, fields: Fields) -> None:
    is_id_asked_for = format != "txt" and fields.id != Fields.id
    for column in [*fields.needed, *([fields.id] if is_id_asked_for else [])]:
        if column not in columns:
            has = ", ".join(columns) or "no columns"
            option = "--prompt-field" if column in fields.needed else "--id-field"
            raise InputError(f"{source} has no column {column!r}", hint=f"it has {has}; {option} names another")


def _job(row: InputRow, name: str, fields: Fields, settings: Settings) -> Job:
    own: dict[str, Any] = dict(row.columns)
    id: str | int = f"{name}:{row.number}"
    prompt, error = None, row.error
    try:
        if error is None:
            id = _take_id(own, fields.id, id)
            prompt = _take_prompt(own, row.columns, fields)
            settings = _overridden(settings, own)
    except (ValueError, UsageError) as problem:
        error = str(problem)
    return Job(id, prompt, settings, own, row.source, row.number, row.line, error)


def _take_id(own: dict[str, Any], column: str, default: str | int) -> str | int:
    """The id of a row, which is taken out, or the default. Raises ValueError where what it has can be none."""
    id = _exact(own.pop(column, None))
    if id is None or id == "":
        return default
    if isinstance(id, bool) or not isinstance(id, (str, int)):
        raise ValueError(f"{column!r} is {_shown(id)}, where text or a whole number must be")
    return _checked(id, repr(column)) if isinstance(id, str) else id


def _take_prompt(own: dict[str, Any], columns: Mapping[str, Any], fields: Fields) -> str:
    """The prompt of a row with these columns; where it is one, that is taken out of its `own`.

    Raises ValueError where there is none.
    """
    if fields.template is not None:
        return _checked(fields.template.fill(columns), "the prompt")
    own.pop(fields.prompt, None)
    prompt = columns.get(fields.prompt)
    if prompt is None:
        raise ValueError(f"{fields.prompt!r} is {'null' if fields.prompt in columns else 'missing'}")
    if not isinstance(prompt, str):
        raise ValueError(f"{fields.prompt!r} is {_shown(prompt)}, where text must be")
    return _checked(prompt, "the prompt")


def _checked(text: str, what: str) -> str:
    """The text. Raises ValueError where it holds half of a character, as JSON can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not valid Unicode: it holds half of a surrogate pair") from None
    return text


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
    number = _exact(_number(value) if isinstance(value, str) else value)
    if number is None or (isinstance(number, int) and not isinstance(number, bool)):
        return number
    raise UsageError(f"{name} is {_shown(value)}, where a whole number must be")


def _number(text: str) -> int | float | str:
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _exact(value: Any) -> Any:
    """A float that is a whole number as that: such are all numbers of a column where a program found one missing."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT
    return int(value) if is_whole else value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
