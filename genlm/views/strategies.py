"""The table of strategy kinds: as text for a terminal or a pipe, and as JSON."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from genlm.decoding.explained import FORMULAS, MEANINGS
from genlm.decoding.kinds import KINDS, SHARED_FIELDS, Choice, Field, Kind, Text, Value
from genlm.decoding.strategy import Strategy
from genlm.views.terminal import Writer

WIDTH, INDENT = 80, "    "
HEADING = "bold"

# A line and its style.
Line = tuple[str, str | None]


def show_kinds(format: str) -> None:
    """Print every kind, and the fields that they share once."""
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
    """A kind as JSON has it."""
    return {
        "kind": kind.name,
        "summary": kind.summary,
        "paper": kind.paper or None,
        "formula": FORMULAS[kind.name],
        "samples": kind.samples,
        "fields": [_field_record(name, field) for name, field in kind.fields.items()],
    }


def spelled(value: Value) -> str:
    """A value as a spec has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def own_fields(kind: Kind) -> dict[str, Field]:
    """The fields of a kind that are not the same in others."""
    shared = {name: field for group in SHARED_FIELDS.values() for name, field in group.items()}
    return {name: field for name, field in kind.fields.items() if shared.get(name) != field}


def groups_of(kind: Kind) -> list[str]:
    """The groups of shared fields that a kind takes."""
    others = kind.fields.keys() - own_fields(kind).keys()
    return [name for name, group in SHARED_FIELDS.items() if group.keys() & others]


def _field_record(name: str, field: Field) -> dict[str, Any]:
    record = {"name": name, "default": field.default, "range": field.range, "meaning": MEANINGS[name]}
    if isinstance(field, Choice):
        return record | {"choices": list(field.choices.values())}
    if isinstance(field, Text):
        return record | {"type": "str"}
    return record | {
        "type": field.type.__name__,
        "low": None if field.low == -math.inf else field.low,
        "high": None if field.high == math.inf else field.high,
        "low_open": field.low_open,
        "high_open": field.high_open,
    }


def _all_lines() -> Iterator[Line]:
    for kind in KINDS.values():
        yield kind.name, HEADING
        yield from _wrapped(kind.summary)
        yield from _field_lines(own_fields(kind))
        yield from _wrapped(f"takes also: {', '.join(groups_of(kind))}")
        if kind.paper:
            yield from _wrapped(kind.paper)
        yield "", None
    for name, group in SHARED_FIELDS.items():
        yield f"shared: {name}", HEADING
        yield from _field_lines(group)
        yield "", None
    yield "genlm strategies show KIND explains one, with its formula.", None


def _kind_lines(kind: Kind) -> Iterator[Line]:
    yield kind.name, HEADING
    yield from _wrapped(kind.summary)
    if kind.paper:
        yield from _wrapped(kind.paper)
    yield from [("", None), ("formula", HEADING)]
    for line in FORMULAS[kind.name].splitlines():
        yield from _wrapped(line)
    yield from [("", None), ("fields", HEADING)]
    for name, field in kind.fields.items():
        yield from _field_lines({name: field})
        yield from _wrapped(MEANINGS[name], 2 * INDENT)
    yield from [("", None), ("example", HEADING)]
    yield f'{INDENT}genlm generate "Once upon a time" -s {Strategy.of(kind.name)}', None


def _field_lines(fields: Mapping[str, Field]) -> Iterator[Line]:
    for name, field in fields.items():
        yield from _wrapped(f"{name}={spelled(field.default)}".ljust(26) + field.range)


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
