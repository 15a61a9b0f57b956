"""Hypothesis strategies that damage valid input."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

# Numbers beyond every type, characters that terminals or parsers act on, and deep, long or unbalanced structure.
NASTY_TEXTS = (
    *("", " ", "\n", "\r\n", "\r", "\t", "\0", "\ufeff", "\u202e", "\u2028", "\ud800"),
    *("\x1b]0;title\x07", "\x1b[2J", "\x9b31m"),
    *("nan", "NaN", "inf", "-Infinity", "1e400", "-1", "0", "1.5", "1e3", "\uff11", "9223372036854775808", "9" * 5000),
    *("null", "true", "[]", "{}", '""', "[" * 3000, '{"a":' * 3000, '"', "'", ",", ":", "=", "@", "+", "-", "--"),
    *("=1+1", "a.b." * 500, "狐", "🦊", "e\u0301" * 20, "x" * 70_000, "../..", "~", "%s%n", "{prompt}", "{0.x}"),
)
NASTY_NUMBERS = (
    *(0, -1, 1, 1.5, 10**6, 10**12, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(1e308, float("nan"), float("inf")),
)
NASTY_VALUES: tuple[Any, ...] = (
    *NASTY_NUMBERS,
    *(None, True, False, "", "\0", "\ud800", "\x1b[2J", "x" * 70_000),
    *([], {}, [[]], [0] * 5000, {"a": {"b": {}}}, [None], ["", -1]),
)

# Repeated repetition grows exponentially.
MOST_BYTES = 1 << 20

nasty_texts = st.sampled_from(NASTY_TEXTS)
# Copies, because later edits may change them.
nasty_values = st.sampled_from(NASTY_VALUES).map(deepcopy)
nasty_numbers = st.sampled_from(NASTY_NUMBERS)


@st.composite
def damaged_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return `valid` after some edits: flipped bits, and pieces that are removed, repeated or inserted."""
    data = valid
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 1, 2, 8, 64, len(data)))))
        edit = draw(st.sampled_from(("flip", "remove", "repeat", "insert")))
        if edit == "flip" and start < len(data):
            flipped = data[start] ^ (1 << draw(st.integers(0, 7)))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif edit == "remove":
            data = data[:start] + data[end:]
        elif edit == "repeat" and data:
            times = draw(st.sampled_from((1, 2, 100)))
            data = data[:end] + data[start:end] * min(times, MOST_BYTES // len(data)) + data[end:]
        else:
            inserted = draw(st.one_of(st.binary(max_size=8), nasty_texts.map(encoded)))
            data = data[:start] + inserted + data[end if draw(st.booleans()) else start :]
    return data


@st.composite
def damaged_values(draw: st.DrawFn, valid: Any) -> Any:
    """Return parsed JSON in which some values are replaced or removed."""
    values = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        parents = [each for each in containers(values) if each]
        if not parents:
            break
        parent = draw(st.sampled_from(parents))
        key = draw(st.sampled_from(sorted(parent))) if isinstance(parent, dict) else draw(indices(parent))
        if draw(st.integers(0, 4)) == 0:
            del parent[key]
        else:
            is_number = isinstance(parent[key], int | float)
            parent[key] = draw(st.one_of(nasty_numbers, nasty_values) if is_number else nasty_values)
    return values


@st.composite
def damaged_json(draw: st.DrawFn, valid: Any, dump: Callable[[Any], str] = json.dumps) -> bytes:
    """Return a JSON document with damaged values, or damaged as text."""
    if draw(st.booleans()):
        return encoded(dump(draw(damaged_values(valid))))
    return draw(damaged_bytes(encoded(dump(valid))))


@st.composite
def damaged_lines(draw: st.DrawFn, valid: list[Any]) -> bytes:
    """Return lines of JSON, some of them damaged."""
    lines = [json.dumps(each).encode() for each in valid]
    for _ in range(draw(st.integers(0, 2))):
        number = draw(indices(lines))
        lines[number] = draw(damaged_json(valid[number]))
    return b"".join(line + b"\n" for line in lines)


def containers(values: Any) -> list[Any]:
    """Return all objects and lists in parsed JSON, from the outside in."""
    if not isinstance(values, dict | list):
        return []
    inside = values.values() if isinstance(values, dict) else values[:50]
    return [values, *(each for value in inside for each in containers(value))]


def indices(items: list[Any]) -> st.SearchStrategy[int]:
    """Return a strategy for the indices of a list."""
    return st.integers(0, len(items) - 1)


def encoded(text: str) -> bytes:
    """Return text as UTF-8; lone surrogates become invalid bytes."""
    return text.encode("utf-8", "surrogatepass")
