"""A strategy as data: frozen, hashable, torch-free, with every field resolved.

Flags, spec strings and presets all go through `Strategy.of`, and `Strategy.parse(str(strategy)) == strategy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from genlm.decoding.kinds import ALL_FIELDS, KINDS, Kind, Value
from genlm.decoding.spec import Assignment, read_spec
from genlm.errors import SpecError, UsageError

DEFAULT_KIND = "top-p"


@dataclass(frozen=True)
class Strategy:
    """A decoding strategy: its kind and the value of every field that applies to it."""

    kind: str
    values: tuple[tuple[str, Value], ...]
    name: str = field(default="", compare=False)

    @classmethod
    def of(cls, kind: str, fields: Mapping[str, Value] | None = None, *, name: str = "") -> Strategy:
        """The strategy of `kind` with `fields` given and the others at their defaults.

        A temperature of 0 in a kind that samples means greedy, and gives the greedy strategy.

        Raises:
            UsageError: no such kind, a field that does not apply to it, or a value out of the field's range.
        """
        row = _kind(kind)
        fields = dict(fields or {})
        for field_name, value in fields.items():
            _check(row, field_name, value)
        if _is_temperature_zero(row, fields):
            row = KINDS["greedy"]
            fields = {key: value for key, value in fields.items() if key in row.fields}
        values = tuple((key, spec.normal(fields.get(key, spec.default))) for key, spec in row.fields.items())
        made = cls(row.name, values)
        return cls(row.name, values, name or made.spec)

    @classmethod
    def parse(cls, spec: str, *, name: str = "") -> Strategy:
        """The strategy that `KIND[:FIELD=VALUE[,FIELD=VALUE...]]` describes.

        Raises:
            SpecError: with the offending place, where the spec cannot be read or a field is wrong.
        """
        kind, fields = read_fields(spec)
        return cls.of(kind, fields, name=name)

    @property
    def fields(self) -> dict[str, Value]:
        """Every field with its value, in the order of the table of kinds."""
        return dict(self.values)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, so that a seed matters."""
        return KINDS[self.kind].samples

    @property
    def spec(self) -> str:
        """The spec that gives this strategy: the kind's main field, and every field that is not at its default."""
        row = KINDS[self.kind]
        shown = [
            f"{key}={_format(value)}"
            for key, value in self.values
            if key == row.main or value != row.fields[key].normal(row.fields[key].default)
        ]
        return ":".join([self.kind, ",".join(shown)]) if shown else self.kind

    def __str__(self) -> str:
        return self.spec


def read_fields(spec: str) -> tuple[str, dict[str, Value]]:
    """The kind of a spec and the fields that it gives. Raises SpecError as `Strategy.parse` does."""
    kind, assignments = read_spec(spec)
    fields: dict[str, Value] = {}
    with _blaming(spec, kind.start, kind.end):
        row = _kind(kind.text)
    for assignment in assignments:
        with _blaming(spec, assignment.start, assignment.end):
            fields[assignment.field] = _read(row, assignment)
            _check(row, assignment.field, fields[assignment.field])
    return row.name, fields


def kind_from_fields(fields: Mapping[str, Value]) -> str:
    """The kind that plain flags ask for: beams before filters, and the default where only modifiers are given."""
    if {"num_beams", "length_penalty", "early_stopping"} & fields.keys():
        return "beam"
    if "top_p" in fields:
        return "top-p"
    if "top_k" in fields:
        return "top-k"
    return DEFAULT_KIND


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UsageError(f"no strategy kind {name!r}", hint="the kinds are " + ", ".join(KINDS))
    return KINDS[name]


def _check(kind: Kind, field_name: str, value: object) -> None:
    if field_name not in kind.fields:
        raise UsageError(_misplaced(kind, field_name), hint=f"{kind.name} takes " + ", ".join(kind.fields))
    spec = kind.fields[field_name]
    if spec.admits(value) or _is_temperature_zero(kind, {field_name: value}):
        return
    raise UsageError(f"{field_name} must be {spec.range}, not {value!r}")


def _misplaced(kind: Kind, field_name: str) -> str:
    if field_name not in ALL_FIELDS:
        return f"no field {field_name!r} in any strategy"
    return f"field {field_name!r} does not apply to kind {kind.name!r}"


def _read(kind: Kind, assignment: Assignment) -> Value:
    spec = kind.fields.get(assignment.field)
    if spec is None:
        raise UsageError(_misplaced(kind, assignment.field), hint=f"{kind.name} takes " + ", ".join(kind.fields))
    value = spec.read(assignment.value)
    if value is None:
        raise UsageError(f"{assignment.field} must be {spec.range}, not {assignment.value!r}")
    return value


def _is_temperature_zero(kind: Kind, fields: Mapping[str, object]) -> bool:
    value = fields.get("temperature")
    return kind.samples and isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _format(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


class _blaming:
    """Turns a usage error raised inside into one that points at `spec[start:end]`."""

    def __init__(self, spec: str, start: int, end: int) -> None:
        self.place = (spec, start, end)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, UsageError) and not isinstance(error, SpecError):
            spec, start, end = self.place
            raise SpecError(str(error), spec=spec, start=start, end=end, hint=error.hint) from None
