"""The grammar of a strategy spec: KIND[:FIELD=VALUE[,FIELD=VALUE...]], each piece with its place in the text."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.errors import SpecError


@dataclass(frozen=True)
class Word:
    """A word of a spec, at `spec[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Assignment:
    """`field=value` in a spec."""

    field: Word
    value: Word


def read_spec(spec: str) -> tuple[Word, list[Assignment]]:
    """The kind and the assignments of a spec, as written. Raises SpecError where it breaks the grammar."""
    head, colon, tail = spec.partition(":")
    kind = _trimmed(head, 0)
    if not kind.text:
        raise SpecError("a strategy starts with its kind", spec=spec, start=0, end=len(head))
    if not colon:
        return kind, []
    assignments: list[Assignment] = []
    at = len(head) + 1
    for part in tail.split(","):
        assignment = _read_assignment(spec, part, at)
        field = assignment.field
        if any(field.text == earlier.field.text for earlier in assignments):
            raise SpecError(f"field {field.text!r} is given twice", spec=spec, start=field.start, end=field.end)
        assignments.append(assignment)
        at += len(part) + 1
    return kind, assignments


def _read_assignment(spec: str, part: str, at: int) -> Assignment:
    name, equals, rest = part.partition("=")
    field, value = _trimmed(name, at), _trimmed(rest, at + len(name) + 1)
    if not (field.text and equals and value.text):
        whole = _trimmed(part, at)
        raise SpecError("expected FIELD=VALUE", spec=spec, start=whole.start, end=whole.end)
    return Assignment(field, value)


def _trimmed(text: str, at: int) -> Word:
    start = at + len(text) - len(text.lstrip())
    stripped = text.strip()
    return Word(stripped, start, start + len(stripped))
