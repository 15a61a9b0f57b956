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
    """`field=value` in a spec, at `spec[start:end]`."""

    field: str
    value: str
    start: int
    end: int


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
        if any(assignment.field == earlier.field for earlier in assignments):
            message = f"field {assignment.field!r} is given twice"
            raise SpecError(message, spec=spec, start=assignment.start, end=assignment.end)
        assignments.append(assignment)
        at += len(part) + 1
    return kind, assignments


def _read_assignment(spec: str, part: str, at: int) -> Assignment:
    whole = _trimmed(part, at)
    name, equals, value = whole.text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise SpecError("expected FIELD=VALUE", spec=spec, start=whole.start, end=whole.end)
    return Assignment(name.strip(), value.strip(), whole.start, whole.end)


def _trimmed(text: str, at: int) -> Word:
    start = at + len(text) - len(text.lstrip())
    stripped = text.strip()
    return Word(stripped, start, start + len(stripped))
