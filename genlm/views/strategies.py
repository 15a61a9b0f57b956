"""The kinds of strategies: as text for a terminal or a pipe, and as JSON."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from genlm.decoding.declaration import Choice, Field, Kind, Number, Processor
from genlm.decoding.kinds import KINDS
from genlm.decoding.kinds.shared import SHARED
from genlm.decoding.strategy import Strategy
from genlm.views.terminal import Writer

WIDTH, INDENT = 80, "    "
HEADING = "bold"

# A line and its style.
Line = tuple[str, str | None]


def show_kinds(format: str) -> None:
    """Print every kind, then the fields that several kinds share."""
    if format == "json":
        _print_json({"strategies": [kind_record(kind) for kind in KINDS.values()]})
    else:
        _print_lines(_all_lines())


def show_kind(kind: Kind, format: str) -> None:
    """Print everything about one kind."""
    if format == "json":
        _print_json(kind_record(kind))
    else:
        _print_lines(_kind_lines(kind))


def kind_record(kind: Kind) -> dict[str, Any]:
    """Return the JSON object of a kind."""
    return {
        "kind": kind.name,
        "summary": kind.summary,
        "paper": kind.paper or None,
        "formula": kind.formula,
        "samples": kind.samples,
        "fields": [_field_record(field) for field in kind.fields.values()],
    }


def own_fields(kind: Kind) -> list[Field[Any]]:
    """Return the fields of a kind that are not shared, or have another default or range than the shared ones."""
    shared = [field for group in SHARED.values() for field in fields_of(group)]
    return [field for field in kind.fields.values() if field not in shared]


def shared_groups(kind: Kind) -> list[str]:
    """Return the groups of shared processors that a kind takes, in whole or in part."""
    return [name for name, group in SHARED.items() if any(each in kind.processors for each in group)]


def fields_of(processors: Iterable[Processor]) -> list[Field[Any]]:
    """Return the fields of some processors."""
    return [field for processor in processors for field in processor.fields]


def _field_record(field: Field[Any]) -> dict[str, Any]:
    values = field.values
    record = {
        "name": field.name,
        "default": values.to_json(field.default),
        "range": values.range,
        "meaning": field.description,
    }
    if isinstance(values, Choice):
        return record | {"choices": list(values.choices.values())}
    if not isinstance(values, Number):
        return record | {"type": "str"}
    return record | {
        "type": values.type.__name__,
        "low": None if values.low == -math.inf else values.low,
        "high": None if values.high == math.inf else values.high,
        "low_open": values.low_open,
        "high_open": values.high_open,
    }


def _all_lines() -> Iterator[Line]:
    for kind in KINDS.values():
        yield kind.name, HEADING
        yield from _wrapped(kind.summary)
        yield from _field_lines(own_fields(kind))
        yield from _wrapped(f"also takes: {', '.join(shared_groups(kind))}")
        if kind.paper:
            yield from _wrapped(kind.paper)
        yield "", None
    for name, group in SHARED.items():
        yield f"shared: {name}", HEADING
        yield from _field_lines(fields_of(group))
        yield "", None
    yield "genlm strategies show KIND explains one, with its formula.", None


def _kind_lines(kind: Kind) -> Iterator[Line]:
    yield kind.name, HEADING
    yield from _wrapped(kind.summary)
    if kind.paper:
        yield from _wrapped(kind.paper)
    yield from [("", None), ("formula", HEADING)]
    for line in kind.formula.splitlines():
        yield from _wrapped(line)
    yield from [("", None), ("fields", HEADING)]
    for field in kind.fields.values():
        yield from _field_lines([field])
        yield from _wrapped(field.description, 2 * INDENT)
    yield from [("", None), ("example", HEADING)]
    yield f'{INDENT}genlm generate "Once upon a time" -s {Strategy.of(kind.name)}', None


def _field_lines(fields: Iterable[Field[Any]]) -> Iterator[Line]:
    for field in fields:
        yield from _wrapped(f"{field.name}={field.format(field.default)}".ljust(26) + field.values.range)


def _wrapped(text: str, indent: str = INDENT) -> Iterator[Line]:
    for line in textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False):
        yield line, None


def _print_lines(lines: Iterator[Line]) -> None:
    writer = Writer(sys.stdout)
    for text, style in lines:
        writer.write(text, style)
        writer.write("\n")


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, indent=2))
