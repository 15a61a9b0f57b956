"""A strategy as data: frozen, hashable, torch-free, with every field resolved.

Flags, spec strings and presets all go through `Strategy.of`, and `Strategy.parse(str(strategy)) == strategy`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from genlm.decoding.kinds import ALL_FIELDS, KINDS, Field, Given, Kind, Value
from genlm.decoding.spec import Assignment, Word, read_spec
from genlm.errors import SpecError, UsageError

DEFAULT_KIND = "top-p"
# Where several are given the first is the kind, and the others are filters added to it.
KINDS_OF_FLAGS = {
    "min-p": "min_p",
    "typical": "typical_p",
    "epsilon": "epsilon_cutoff",
    "eta": "eta_cutoff",
    "top-p": "top_p",
    "top-k": "top_k",
}


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A decoding strategy: its kind and the value of every field that applies to it."""

    kind: str
    values: tuple[tuple[str, Value], ...]
    name: str = dataclasses.field(default="", compare=False)

    @classmethod
    def of(cls, kind: str, fields: Mapping[str, Given] | None = None, *, name: str = "") -> Strategy:
        """The strategy of `kind` with `fields` given and the others at their defaults.

        A temperature of 0 in a kind that samples means greedy, and gives the greedy strategy; with beams, it gives
        plain beam search.

        Raises:
            UsageError: no such kind, a field that does not apply to it, a value out of the field's range, or values
                that do not go together.
        """
        row = find_kind(kind)
        fields = dict(fields or {})
        for field_name, value in fields.items():
            _check(row, field_name, value)
        if _is_temperature_zero(row, fields):
            row = KINDS[row.cold]
            fields = {key: value for key, value in fields.items() if key in row.fields}
        values = {key: spec.normal(fields.get(key, spec.default)) for key, spec in row.fields.items()}
        _check_together(row, values)
        made = cls(row.name, tuple(values.items()), name)
        return made if name else dataclasses.replace(made, name=made.spec)

    @classmethod
    def parse(cls, spec: str, *, name: str = "") -> Strategy:
        """The strategy that `KIND[:FIELD=VALUE[,FIELD=VALUE...]]` describes.

        Raises:
            SpecError: with the offending place, where the spec cannot be read or a field is wrong.
        """
        kind, fields = read_fields(spec)
        with _blaming(spec, Word(spec, 0, len(spec))):
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
    with _blaming(spec, kind):
        row = find_kind(kind.text)
    return row.name, {each.field.text: _read(spec, row, each) for each in assignments}


def kind_from_fields(fields: Mapping[str, Given]) -> str:
    """The kind that plain flags ask for: beams before filters, and the default where only modifiers are given."""
    if {"num_beams", "length_penalty", "early_stopping"} & fields.keys():
        return "beam"
    return next((kind for kind, main in KINDS_OF_FLAGS.items() if main in fields), DEFAULT_KIND)


def find_kind(name: str) -> Kind:
    """The row of a kind. Raises UsageError where there is none of that name."""
    if name not in KINDS:
        raise UsageError(f"no strategy kind {name!r}", hint="the kinds are " + ", ".join(KINDS))
    return KINDS[name]


def _check(kind: Kind, field_name: str, value: object) -> None:
    spec = _field(kind, field_name)
    if not spec.admits(value) and not _is_temperature_zero(kind, {field_name: value}):
        raise _out_of_range(field_name, spec, value)


def _check_together(kind: Kind, values: Mapping[str, Value]) -> None:
    for rule in kind.rules:
        complaint = rule(values)
        if complaint:
            raise UsageError(complaint)


def _field(kind: Kind, field_name: str) -> Field:
    if field_name in kind.fields:
        return kind.fields[field_name]
    hint = f"{kind.name} takes " + ", ".join(kind.fields)
    if field_name not in ALL_FIELDS:
        raise UsageError(f"no field {field_name!r} in any strategy", hint=hint)
    raise UsageError(f"field {field_name!r} does not apply to kind {kind.name!r}", hint=hint)


def _out_of_range(field_name: str, spec: Field, value: object) -> UsageError:
    return UsageError(f"{field_name} must be {spec.range}, not {value!r}")


def _read(spec: str, kind: Kind, assignment: Assignment) -> Value:
    """The value of `field=value`, checked; an error points at the field or at the value."""
    name, text = assignment.field.text, assignment.value.text
    with _blaming(spec, assignment.field):
        field = _field(kind, name)
    with _blaming(spec, assignment.value):
        value = field.read(text)
        if value is None:
            raise _out_of_range(name, field, text)
        _check(kind, name, value)
    return value


def _is_temperature_zero(kind: Kind, fields: Mapping[str, object]) -> bool:
    value = fields.get("temperature")
    return kind.samples and isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _format(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


@contextmanager
def _blaming(spec: str, place: Word) -> Iterator[None]:
    """Turn a usage error raised inside into one that points at `place`."""
    try:
        yield
    except UsageError as error:
        raise SpecError(str(error), spec=spec, start=place.start, end=place.end, hint=error.hint) from None
