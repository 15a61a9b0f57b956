"""A comparison that was saved as JSON, read again without a model."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from genlm.errors import InputError
from genlm.formats.saved import read_json
from genlm.records.compare import METRICS, Cell, Estimate, Sample, StrategyComparison, StrategyRow
from genlm.records.model import ModelInfo


class _Wrong(Exception):
    """A value that is not what its place asks for."""


def read_comparison(path: Path) -> StrategyComparison:
    """The comparison that `genlm compare --format json` has written.

    Raises:
        InputError: a file that cannot be read, or holds no such comparison.
    """
    contents = read_json(path)
    try:
        return _comparison(contents)
    except _Wrong as error:
        raise InputError(f"{path}: not a comparison: {error}", hint="genlm compare --format json writes one") from error


def _comparison(contents: Any) -> StrategyComparison:
    record = _made(dict[str, Any], contents, "the file")
    rows = tuple(_row(row, f"rows[{at}]") for at, row in enumerate(_take(record, "rows", list[Any])))
    prompts = _take(record, "prompts", tuple[str, ...])
    if not rows or not prompts:
        raise _Wrong("it has no rows" if prompts else "it has no prompts")
    places = [cell.prompt for row in rows for cell in row.cells if cell.prompt is not None]
    if any(not 0 <= place < len(prompts) for place in places):
        raise _Wrong("a cell names a prompt that is not there")
    return StrategyComparison(
        _take(record, "model", ModelInfo),
        _take(record, "judge", ModelInfo | None),
        _take(record, "seed", int),
        _take(record, "max_new_tokens", int),
        _take(record, "num_return_sequences", int),
        prompts,
        rows,
    )


def _row(value: Any, place: str) -> StrategyRow:
    record = _made(dict[str, Any], value, place)
    samples = iter(_take(record, "completions", tuple[Sample, ...], place))
    cells = tuple(_cells(_take(record, "cells", list[dict[str, Any]], place), samples, place))
    if next(samples, None) is not None:
        raise _Wrong(f"{place} has more completions than its cells")
    return StrategyRow(
        _take(record, "strategy", str, place),
        _take(record, "spec", str | None, place),
        _take(record, "swept", dict[str, bool | int | float | str], place),
        cells,
        _metrics(_take(record, "metrics", dict[str, dict[str, float | None]], place), place),
        _take(record, "distances", dict[str, float | None] | None, place),
    )


def _cells(records: list[dict[str, Any]], samples: Iterator[Sample], place: str) -> Iterator[Cell]:
    for record in records:
        own = [next(samples, None) for _ in range(_take(record, "completions", int, place))]
        if None in own:
            raise _Wrong(f"{place} has fewer completions than its cells")
        yield Cell(
            _take(record, "prompt", int | None, place),
            tuple(sample for sample in own if sample is not None),
            _take(record, "seconds", float | None, place),
            _take(record, "error", str | None, place),
        )


def _metrics(records: dict[str, dict[str, float | None]], place: str) -> dict[str, Estimate | None]:
    if set(records) != set(METRICS):
        raise _Wrong(f"{place}.metrics are not those of this version")
    return {
        name: None if records[name].get("mean") is None else _made(Estimate, records[name], f"{place}.metrics.{name}")
        for name in METRICS
    }


def _take(record: dict[str, Any], key: str, kind: Any, place: str = "") -> Any:
    """The value of a key as what it is to be."""
    where = f"{place}.{key}" if place else key
    if key not in record:
        raise _Wrong(f"it has no {where}")
    return _made(kind, record[key], where)


def _made(kind: Any, value: Any, place: str) -> Any:
    """A value of JSON as what a type hint says; raises _Wrong where it is nothing of the kind."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _made_one_of(arguments, value, place)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is list and isinstance(value, list):
        return [_made(arguments[0], each, f"{place}[{at}]") for at, each in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        return tuple(_made(arguments[0], each, f"{place}[{at}]") for at, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _made(arguments[1], each, f"{place}.{key}") for key, each in value.items()}
    if kind is bytes and isinstance(value, list):
        return _bytes(value, place)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, place)
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise _Wrong(f"{place} is a {type(value).__name__}")


def _made_one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    return _made(type(value) if type(value) in others else others[-1], value, place)


def _bytes(value: list[Any], place: str) -> bytes:
    try:
        return bytes(value)
    except (TypeError, ValueError):
        raise _Wrong(f"{place} is no list of bytes") from None


def _dataclass(kind: Any, value: dict[str, Any], place: str) -> Any:
    hints = _hints(kind)
    required = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    lacking = sorted(required - value.keys())
    if lacking:
        raise _Wrong(f"{place} has no {lacking[0]}")
    return kind(**{name: _made(hints[name], value[name], f"{place}.{name}") for name in hints if name in value})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    # Not among the class's own names, where a field may be called as a type is.
    return typing.get_type_hints(kind, localns={})
