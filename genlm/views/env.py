"""The report of `genlm env`: aligned plain text, or one JSON object."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TextIO

from genlm.records.env import Fact, Section
from genlm.records.serialize import as_object
from genlm.views.terminal import one_line

WIDTH = 80


def show_env(sections: Iterable[Section], format: str, stream: TextIO) -> None:
    """Write the report: as text each section as soon as it is known, as JSON all of them at the end."""
    if format == "json":
        record = {
            section.name: {fact.name: {"error": fact.error} if fact.error else fact.value for fact in section.facts}
            for section in sections
        }
        stream.write(as_object(record))
        return
    for section in sections:
        stream.write(_text(section))
        stream.flush()


def _text(section: Section) -> str:
    labels = [fact.name.removesuffix("_bytes") for fact in section.facts]
    indent = max(map(len, labels), default=0) + 4
    lines = [section.name]
    for label, fact in zip(labels, section.facts, strict=True):
        absent = "not installed" if section.name == "packages" else "unknown"
        # Break no paths, so that they can be copied.
        lines += textwrap.wrap(
            one_line(_text_value(fact, absent)),
            WIDTH,
            initial_indent=f"  {label}".ljust(indent),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [f"  {label}"]
    if not section.facts:
        lines.append("  none set")
    return "\n".join(lines) + "\n"


def _text_value(fact: Fact, absent: str) -> str:
    if fact.error is not None:
        return f"error: {fact.error}"
    value = fact.value
    if value is None:
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if fact.name.endswith("_bytes"):
        return _size(float(value))
    return str(value)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
