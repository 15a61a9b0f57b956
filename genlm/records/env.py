"""The report of `genlm env` on this installation and machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool | list[str] | None


@dataclass(frozen=True)
class Fact:
    """A named value; `error` says in one line why it could not be read.

    A value of None means not installed for a package, unknown for anything else.
    """

    name: str
    value: Value = None
    error: str | None = None


@dataclass(frozen=True)
class Section:
    """Facts about one subject."""

    name: str
    facts: tuple[Fact, ...]
