"""A strategy as data: frozen, hashable, free of torch, with every field resolved.

Flags, specs and presets all go through `Strategy.of`, and `Strategy.parse(str(strategy)) == strategy`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genlm.decoding.declaration import Field, Given, Kind, Value
from genlm.decoding.kinds import ALL_FIELDS, KINDS
from genlm.decoding.kinds.shared import DIVIDE_BY_TEMPERATURE, PENALTIES, TRUNCATION
from genlm.errors import InputError, SpecError, UsageError, show

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

# The kind if no plain flag selects one.
DEFAULT_KIND = "top-p"


@dataclass(frozen=True)
class Strategy:
    """A decoding strategy: its kind and the value of every field that applies to it.

    `given` names the fields that were set explicitly, which changes nothing but `as_given`.
    """

    kind: str
    values: tuple[tuple[str, Value], ...]
    name: str = dataclasses.field(default="", compare=False)
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def of(cls, kind: str, fields: Mapping[str, Given] | None = None, *, name: str = "") -> Strategy:
        """Return the strategy of `kind` with these fields, and the defaults of all others.

        At a temperature of 0, a kind that samples becomes greedy, or plain beam search if it has beams.

        Raises:
            UsageError: an unknown kind, a field that does not apply to it, a value out of range, or values that do not
                fit together.
        """
        declared = find_kind(kind)
        checked = {key: _find_field(declared, key).check(value) for key, value in (fields or {}).items()}
        if declared.samples and checked.get("temperature") == 0:
            declared = KINDS[declared.zero_temperature_kind]
        values = {key: checked.get(key, field.default) for key, field in declared.fields.items()}
        for rule in declared.rules:
            complaint = rule(values)
            if complaint:
                raise UsageError(complaint)
        made = cls(declared.name, tuple(values.items()), name, frozenset(checked))
        return made if name else dataclasses.replace(made, name=made.spec)

    @classmethod
    def parse(cls, spec: str, *, name: str = "") -> Strategy:
        """Return the strategy that `KIND[:FIELD=VALUE[,FIELD=VALUE...]]` describes.

        Raises:
            SpecError: a spec that cannot be read or has a wrong field; the error has the position.
        """
        kind, fields = read_fields(spec)
        with _pointing_at(spec, Word(spec, 0, len(spec))):
            return cls.of(kind, fields, name=name)

    def __getitem__(self, field: Field[T]) -> T:
        """Return the value of a field that the kind has."""
        return field.of(self.fields)

    def get(self, field: Field[T]) -> T | None:
        """Return the value of a field, or None if the kind does not have it."""
        return self[field] if field.name in self.fields else None

    @property
    def fields(self) -> dict[str, Value]:
        """Every field with its value, in the order in which a spec writes them."""
        return dict(self.values)

    @property
    def declaration(self) -> Kind:
        """The declaration of the kind."""
        return KINDS[self.kind]

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, so that a seed matters."""
        return self.declaration.samples

    @property
    def spec(self) -> str:
        """The spec of this strategy: the kind's main field, and every field that is not at its default."""
        return self._spec_with(frozenset())

    @property
    def as_given(self) -> str:
        """The spec with every field that was given, even if it is at its default."""
        return self._spec_with(self.given)

    def __str__(self) -> str:
        return self.spec

    def _spec_with(self, names: frozenset[str]) -> str:
        declared = self.declaration
        shown = [
            f"{key}={text}"
            for key, value in self.values
            # A spec cannot give an empty list.
            if (text := declared.fields[key].format(value))
            and (key == declared.main or key in names or value != declared.fields[key].default)
        ]
        return f"{self.kind}:{','.join(shown)}" if shown else self.kind

    def to_json(self) -> dict[str, Any]:
        """Return the strategy with every resolved field, as results in JSON have it."""
        fields = {key: self.declaration.fields[key].values.to_json(value) for key, value in self.values}
        return {"name": self.name, "kind": self.kind, "spec": self.spec, "fields": fields}


def find_kind(name: str) -> Kind:
    """Return the declaration of a kind. Raise UsageError if there is none with this name."""
    if name not in KINDS:
        raise UsageError(f"no strategy kind {show(name)}", hint="the kinds are " + ", ".join(KINDS))
    return KINDS[name]


def kind_from_fields(fields: Mapping[str, Given]) -> str:
    """Return the kind that plain flags select: beams before truncations, the default if they only modify."""
    selected = [kind for kind in KINDS.values() if fields.keys() & set(kind.selected_by)]
    return min(selected, key=lambda kind: kind.selection_rank, default=KINDS[DEFAULT_KIND]).name


def transformers_settings(strategy: Strategy) -> dict[str, object]:
    """Return the keyword arguments with which transformers' `generate` runs a strategy, leaving none to a default.

    Only `bad_words_ids` is missing, because it needs a tokenizer.

    Raises:
        UsageError: a kind, or a field with an effect, that transformers does not have.
    """
    declared, values = strategy.declaration, strategy.fields
    if not declared.in_transformers:
        known = [kind.name for kind in KINDS.values() if kind.in_transformers]
        raise UsageError(
            f"transformers has no strategy of the kind {strategy.kind}",
            hint="without code from the Hub it has " + ", ".join(known),
        )
    for processor in declared.processors:
        for field in () if processor.is_off(values) else processor.fields:
            if not field.in_transformers and values[field.name] != field.neutral:
                raise UsageError(f"transformers has no {field.name}")
    pinned = [part for part in declared.parameters if isinstance(part, Field)]
    for processor in (DIVIDE_BY_TEMPERATURE, *TRUNCATION.values(), *PENALTIES) if strategy.samples else PENALTIES:
        pinned += processor.fields
    settings: dict[str, object] = {"do_sample": strategy.samples, "num_beams": 1}
    for field in pinned:
        settings |= field.transformers_arguments(values.get(field.name, field.neutral))
    return settings


# The grammar of a spec.


@dataclass(frozen=True)
class Word:
    """A word of a spec, at `spec[start:end]`."""

    text: str
    start: int
    end: int

    @classmethod
    def trimmed(cls, text: str, at: int) -> Word:
        """Return a piece of a spec that starts at `at`, without the white space around it."""
        start = at + len(text) - len(text.lstrip())
        return cls(text.strip(), start, start + len(text.strip()))


def read_fields(spec: str) -> tuple[str, dict[str, Value]]:
    """Return the kind of a spec and its fields. Raise SpecError as `Strategy.parse` does."""
    head, colon, tail = spec.partition(":")
    name = Word.trimmed(head, 0)
    if not name.text:
        raise SpecError("a strategy starts with its kind", spec=spec, start=0, end=len(head))
    with _pointing_at(spec, name):
        kind = find_kind(name.text)
    fields: dict[str, Value] = {}
    at = len(head) + 1
    for part in tail.split(",") if colon else ():
        field, value = _read_assignment(spec, part, at)
        if field.text in fields:
            raise SpecError(f"field {field.text!r} is given twice", spec=spec, start=field.start, end=field.end)
        with _pointing_at(spec, field):
            declared = _find_field(kind, field.text)
        with _pointing_at(spec, value):
            fields[field.text] = declared.parse(value.text)
        at += len(part) + 1
    return kind.name, fields


def _read_assignment(spec: str, part: str, at: int) -> tuple[Word, Word]:
    name, equals, rest = part.partition("=")
    field, value = Word.trimmed(name, at), Word.trimmed(rest, at + len(name) + 1)
    if not (field.text and equals and value.text):
        whole = Word.trimmed(part, at)
        raise SpecError("expected FIELD=VALUE", spec=spec, start=whole.start, end=whole.end)
    return field, value


def _find_field(kind: Kind, name: str) -> Field[Any]:
    if name in kind.fields:
        return kind.fields[name]
    hint = f"{kind.name} takes " + ", ".join(kind.fields)
    if name not in ALL_FIELDS:
        raise UsageError(f"no field {show(name)} in any strategy", hint=hint)
    raise UsageError(f"field {name!r} does not apply to kind {kind.name!r}", hint=hint)


@contextmanager
def _pointing_at(spec: str, word: Word) -> Iterator[None]:
    """Turn a usage error raised inside into one that points at `word`."""
    try:
        yield
    except UsageError as error:
        raise SpecError(str(error), spec=spec, start=word.start, end=word.end, hint=error.hint) from None


# Presets: named strategies in a TOML file, a table for each, with its kind under `kind` and its fields beside it.

LARGEST_PRESETS = 1 << 20
MOST_KEY_PARTS = 50
LONG_KEY = re.compile(
    rf"""(?:^|[\[{{,])[ \t]*(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MOST_KEY_PARTS}}}""", re.MULTILINE
)


@dataclass(frozen=True)
class Preset:
    """A strategy as a file gives it: its kind, and some of its fields."""

    name: str
    kind: str
    fields: Mapping[str, Given]

    @property
    def strategy(self) -> Strategy:
        """The strategy. Raise UsageError if a field is wrong."""
        return Strategy.of(self.kind, self.fields, name=self.name)


def read_presets(path: Path) -> dict[str, Preset]:
    """Return the presets of a file by name, all of them valid.

    Raises:
        InputError: a file that cannot be read or is not TOML, or a preset that is not a valid strategy.
    """
    try:
        with path.open("rb") as file:
            contents = file.read(LARGEST_PRESETS + 1)
    except OSError as error:
        raise InputError(f"cannot read presets {path}: {error.strerror}") from error
    if len(contents) > LARGEST_PRESETS:
        raise InputError(f"{path}: a file of presets has at most {LARGEST_PRESETS:,} bytes")
    return {name: _preset(path, name, table) for name, table in _parse(path, contents).items()}


def _parse(path: Path, contents: bytes) -> dict[str, Any]:
    try:
        text = contents.decode("utf-8")
        # The parser takes quadratic time for a key of many parts.
        if LONG_KEY.search(text):
            raise InputError(f"{path}: a key with more than {MOST_KEY_PARTS} parts")
        return tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: values are nested too deeply") from error
    # Python does not read integers of more than 4,300 digits.
    except ValueError as error:
        raise InputError(f"{path}: a number has too many digits") from error


def _preset(path: Path, name: str, table: Any) -> Preset:
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise InputError(f"{path}: preset {show(name)} needs a table with a kind", hint='[NAME]\nkind = "top-p"')
    preset = Preset(name, table["kind"], {key: value for key, value in table.items() if key != "kind"})
    try:
        _ = preset.strategy
    except UsageError as error:
        raise InputError(f"{path}: preset {show(name)}: {error}", hint=error.hint) from error
    return preset
