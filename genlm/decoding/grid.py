"""Sweeps of a strategy's fields: `FIELD=V1,V2,...`, where a value may be a range `first..last..step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product

from genlm.decoding.kinds import ALL_FIELDS, KINDS, Value
from genlm.decoding.spec import Word
from genlm.errors import SpecError, UsageError

# Beyond these a sweep is a mistake.
MOST_VALUES = 1000


@dataclass(frozen=True)
class Axis:
    """A field and the values that it is to take in turn."""

    field: str
    values: tuple[Value, ...]


def read_axis(text: str) -> Axis:
    """The axis that `FIELD=V1,V2,...` describes.

    Raises:
        SpecError: with the offending place, for no such field, a value of another type, or a range without end.
    """
    name, equals, tail = text.partition("=")
    if not equals or not name.strip() or not tail.strip():
        raise _wrong(text, Word(text, 0, len(text)), "expected FIELD=VALUE,VALUE,...")
    place = _word(name, 0)
    if place.text not in ALL_FIELDS:
        raise _wrong(text, place, f"no field {place.text!r} in any strategy")
    at = len(name) + 1
    values: list[Value] = []
    for part in tail.split(","):
        values += _read_part(text, place.text, _word(part, at))
        at += len(part) + 1
    return Axis(place.text, tuple(dict.fromkeys(values)))


def check_axes(axes: Sequence[Axis]) -> None:
    """Raise UsageError for a field that is swept twice, or more strategies than can be meant."""
    fields = [axis.field for axis in axes]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is swept twice", hint=f"--grid {twice}=V1,V2 takes all its values")
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST_VALUES:
        raise UsageError(f"the grid has {count:,} combinations; {MOST_VALUES:,} at most")


def crossed(axes: Sequence[Axis]) -> Iterator[dict[str, Value]]:
    """Every combination of the axes' values, the last axis fastest; one that is empty without axes."""
    for values in product(*(axis.values for axis in axes)):
        yield dict(zip((axis.field for axis in axes), values, strict=True))


def axes_of(axes: Sequence[Axis], kind: str) -> list[Axis]:
    """Those of the axes whose field applies to a kind."""
    return [axis for axis in axes if axis.field in KINDS[kind].fields]


def _read_part(text: str, name: str, part: Word) -> list[Value]:
    """The values of a part between commas; whether they are in the field's range is for each kind to say."""
    if not part.text:
        raise _wrong(text, part, "expected a value")
    spelled = _range(text, part) if part.text.count("..") == 2 else [part.text]
    field = next(kind.fields[name] for kind in KINDS.values() if name in kind.fields)
    values: list[Value] = []
    for each in spelled:
        value = field.read(each)
        if value is None:
            raise _wrong(text, part, f"{name} must be {field.range}, not {each!r}")
        values.append(value)
    return values


def _range(text: str, part: Word) -> list[str]:
    """The numbers of `first..last..step` as they are spelled, the last included where a step meets it."""
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


def _word(text: str, at: int) -> Word:
    start = at + len(text) - len(text.lstrip())
    return Word(text.strip(), start, start + len(text.strip()))


def _wrong(text: str, place: Word, message: str) -> SpecError:
    return SpecError(message, spec=text, start=place.start, end=place.end, hint="as top_p=0.8,0.9 or top_k=10..50..20")
