"""Templates that build a prompt from the columns of a row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from genlm.errors import UsageError

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


def unescape(text: str) -> str:
    r"""Return the text with the line breaks and tabs that `\n`, `\r` and `\t` stand for; `\\` is a backslash."""
    return re.sub(r"\\[ntr\\]", lambda match: ESCAPES[match[0]], text)


@dataclass(frozen=True)
class Template:
    """Text with `{column}` where a value goes; `{{` and `}}` stand for braces.

    Raises:
        UsageError: a brace is not closed, or there is anything but a column's name between two.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            parts = list(Formatter().parse(self.text))
        except ValueError as error:
            raise UsageError(f"the template cannot be read: {error}") from error
        for _, name, spec, conversion in parts:
            if name == "" or spec or conversion or re.search(r"[.\[\]]", name or ""):
                raise UsageError(
                    f"the template has braces around {name or 'nothing'}, which is not just a column's name",
                    hint="a column is {name}, and {{ stands for a brace",
                )
        if not self.columns:
            raise UsageError("the template names no column", hint='for example "Title: {title}"')

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return [name for _, name, _, _ in Formatter().parse(self.text) if name]

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the text with the values of a row.

        Raises:
            ValueError: the row does not have a column, or its value is null.
        """
        parts = []
        for text, name, _, _ in Formatter().parse(self.text):
            parts.append(text)
            if name:
                value = values.get(name)
                if value is None:
                    raise ValueError(f"{name!r} is {'null' if name in values else 'missing'}, which the template needs")
                parts.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        return "".join(parts)
