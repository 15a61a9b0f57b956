"""Records as JSON and back. msgspec converts and checks them; it is imported when the first record is converted."""

from __future__ import annotations

import contextlib
import json
import math
import re
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, TextIO, TypeVar, get_args, get_type_hints

T = TypeVar("T")

# Characters a terminal may act on: control characters except line feed and tab, Unicode's line and paragraph
# separators, bidirectional marks, embeddings, overrides and isolates, and lone surrogates.
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Longer documents are kept in a temporary file instead of memory.
MEMORY_BYTES = 1 << 24
CHUNK = 1 << 20
TOO_DEEP = "the JSON is nested too deeply"
_PROBLEM = re.compile(r"(?P<problem>.+?)(?: - at `\$\.?(?P<place>.*)`)?", re.DOTALL)


def to_builtins(record: Any) -> Any:
    """Return a record as dicts, lists and tuples, its keys in the order of the fields. Bytes stay bytes; see `as_line`.

    A record that was read from JSON keeps the order of that JSON, and lacks keys that it lacked.
    """
    import msgspec

    return msgspec.to_builtins(record, builtin_types=(bytes,))


def from_builtins(kind: type[T], values: Any) -> T:
    """Return parsed JSON as a record of type `kind`. Keys that are not fields are ignored.

    Raises:
        ValueError: a missing key or a value of the wrong type, as `rows[3].seed: expected int, got str`.
    """
    import msgspec

    try:
        return msgspec.convert(values, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ValueError(_plain(str(error), kind)) from error


def from_line(kind: type[T], line: str | bytes) -> T:
    """Return a line of JSON as a record of type `kind`. Raise ValueError as `from_builtins` does, or if it is not JSON.

    A key `bytes` has no special meaning here.
    """
    import msgspec

    with contextlib.suppress(msgspec.DecodeError, UnicodeError, RecursionError):
        return msgspec.json.decode(line, type=kind)
    # Slower, but this also reads lone surrogates, and says what is wrong.
    try:
        values = json.loads(line if isinstance(line, str) else line.decode())
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    return from_builtins(kind, values)


def parse(data: str | bytes) -> Any:
    """Return parsed JSON, with lists of numbers under a key `bytes` as bytes.

    Raises:
        ValueError: not valid JSON, nested too deeply, or a number that is not finite.
    """
    try:
        return json.loads(data, object_hook=_restore_bytes, parse_float=_finite_float, parse_constant=_finite_float)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def as_object(values: Any) -> str:
    """Return one JSON object over several lines, ending in a line break. Bytes become lists of numbers."""
    return escaped(_OBJECT.encode(values)) + "\n"


def as_line(values: Any) -> str:
    """Return one JSON object on one line, without a line break. Bytes become lists of numbers."""
    return escaped(_LINE.encode(values))


class ItemsWriter:
    """Writes one JSON object with a list `items` of any length: `head`, the items as they come, then `finish`.

    The object is kept in a temporary file until it is complete, so that an error does not leave half of it in the
    stream.
    """

    def __init__(self, stream: TextIO, head: Mapping[str, Any]) -> None:
        # Imported lazily: every command imports this module.
        import tempfile

        self._stream = stream
        self._draft = tempfile.SpooledTemporaryFile(MEMORY_BYTES, "w+", encoding="utf-8", newline="\n")  # noqa: SIM115
        # An error ends the command without `finish`.
        weakref.finalize(self, self._draft.close)
        self._count = 0
        self._draft.write("{\n" + _members(head) + ',\n  "items": [')

    def add(self, item: Iterable[str]) -> None:
        """Write an item: a JSON object on one line, in pieces."""
        self._draft.write(",\n    " if self._count else "\n    ")
        self._draft.writelines(item)
        self._count += 1

    def finish(self, tail: Mapping[str, Any]) -> None:
        """Write the other members, and then the whole object to the stream."""
        import shutil

        self._draft.write("\n  ],\n" if self._count else "],\n")
        self._draft.write(_members(tail) + "\n}\n")
        self._draft.seek(0)
        shutil.copyfileobj(self._draft, self._stream, CHUNK)


def _members(values: Mapping[str, Any]) -> str:
    return ",\n".join(f"  {as_line(key)}: {as_line(value)}" for key, value in values.items())


def escaped(json_text: str) -> str:
    """Return JSON in which every character that a terminal may act on is written as an escape."""
    # JSON itself escapes the control characters of ASCII, except the last.
    if json_text.isascii() and "\x7f" not in json_text:
        return json_text
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", json_text)


def finite(number: float | None) -> float | None:
    """Return the number, or None for infinity, which JSON does not have."""
    return number if number is not None and math.isfinite(number) else None


def split_bytes(split: bytes | None) -> dict[str, list[int]]:
    """Return the key `bytes` for a token that splits a character, else no key."""
    return {} if split is None else {"bytes": list(split)}


# `default` is for bytes.
_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=list)
_OBJECT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=list, indent=2)


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _restore_bytes(values: dict[str, Any]) -> dict[str, Any]:
    numbers = values.get("bytes")
    if isinstance(numbers, list):
        # If they are not bytes, `from_builtins` says where.
        with contextlib.suppress(TypeError, ValueError):
            values["bytes"] = bytes(numbers)
    return values


def _plain(message: str, kind: Any) -> str:
    """Put the place first: "Expected `int`, got `str` - at `$.seed`" becomes "seed: expected int, got str"."""
    found = _PROBLEM.fullmatch(message)
    assert found is not None
    problem, place = found["problem"].replace("`", ""), found["place"]
    problem = problem[0].lower() + problem[1:]
    if problem.startswith("invalid enum value "):
        choices = get_args(get_type_hints(kind).get(place)) if is_dataclass(kind) else ()
        named = f"{problem.removeprefix('invalid enum value ')} is not one of {', '.join(map(str, choices))}"
        problem = named if choices else problem.replace("enum value", "value")
    missing = problem.removeprefix("object missing required field ")
    if missing != problem:
        return f"{place}.{missing} is missing" if place else f"{missing} is missing"
    return f"{place}: {problem}" if place else problem
