"""Sweeps of a strategy's fields: `FIELD=V1,V2,...`; a value may be a range `first..last..step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

from genlm.decoding.declaration import Field, Plain
from genlm.decoding.kinds import ALL_FIELDS, KINDS
from genlm.decoding.strategy import Word
from genlm.errors import SpecError, UsageError

# A larger sweep is a mistake.
MOST_VALUES = 1000


@dataclass(frozen=True)
class Axis:
    """A field and the values that it takes in turn, as JSON holds them."""

    field: str
    values: tuple[Plain, ...]


def read_axis(text: str) -> Axis:
    """Return the axis that `FIELD=V1,V2,...` describes.

    Raises:
        SpecError: an unknown field, a value of another type, or a range without end; the error has the position.
    """
    name, equals, tail = text.partition("=")
    if not equals or not name.strip() or not tail.strip():
        raise _wrong(text, Word(text, 0, len(text)), "expected FIELD=VALUE,VALUE,...")
    field = Word.trimmed(name, 0)
    if field.text not in ALL_FIELDS:
        raise _wrong(text, field, f"no field {field.text!r} in any strategy")
    at = len(name) + 1
    values: list[Plain] = []
    for part in tail.split(","):
        values += _read_part(text, ALL_FIELDS[field.text], Word.trimmed(part, at))
        at += len(part) + 1
    return Axis(field.text, tuple(dict.fromkeys(values)))


def check_axes(axes: Sequence[Axis]) -> None:
    """Raise UsageError if a field is swept twice, or if there are too many combinations."""
    fields = [axis.field for axis in axes]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is swept twice", hint=f"{twice}=V1,V2 gives all its values at once")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST_VALUES:
        raise UsageError(f"the grid has {count:,} combinations; {MOST_VALUES:,} at most")


def crossed(axes: Sequence[Axis]) -> Iterator[dict[str, Plain]]:
    """Yield every combination of the axes' values, the last axis fastest; without axes, one empty combination."""
    for values in product(*(axis.values for axis in axes)):
        yield dict(zip((axis.field for axis in axes), values, strict=True))


def axes_of(axes: Sequence[Axis], kind: str) -> list[Axis]:
    """Return the axes whose field applies to a kind."""
    return [axis for axis in axes if axis.field in KINDS[kind].fields]


def _read_part(text: str, field: Field[Any], part: Word) -> list[Plain]:
    """Return the values of a part between commas. Each kind checks them against its own range."""
    if not part.text:
        raise _wrong(text, part, "expected a value")
    values: list[Plain] = []
    for each in _range(text, part) if part.text.count("..") == 2 else [part.text]:
        try:
            values.append(field.values.to_json(field.values.parse(each)))
        except ValueError:
            raise _wrong(text, part, f"{field.name} must be {field.values.range}, not {each!r}") from None
    return values


def _range(text: str, part: Word) -> list[str]:
    """Return the numbers of `first..last..step` as texts, including the last if a step meets it."""
    try:
        first, last, step = (Decimal(number) for number in part.text.split(".."))
    except InvalidOperation:
        raise _wrong(text, part, "expected numbers in FIRST..LAST..STEP") from None
    if not (first.is_finite() and last.is_finite() and step.is_finite()):
        raise _wrong(text, part, "expected numbers in FIRST..LAST..STEP")
    if step == 0 or (last - first) / step < 0:
        raise _wrong(text, part, f"steps of {step} never lead from {first} to {last}")
    count = int((last - first) / step) + 1
    if count > MOST_VALUES:
        raise _wrong(text, part, f"{count:,} values; {MOST_VALUES:,} at most")
    return [f"{(first + at * step).normalize():f}" for at in range(count)]


def _wrong(text: str, word: Word, message: str) -> SpecError:
    hint = "for example top_p=0.8,0.9 or top_k=10..50..20"
    return SpecError(message, spec=text, start=word.start, end=word.end, hint=hint)
