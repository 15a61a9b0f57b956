"""Writes the tables at the end of docs/strategies.md from the table of kinds: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from genlm.decoding.explained import FORMULAS, MEANINGS
from genlm.decoding.kinds import KINDS, SHARED_FIELDS, Field, Kind
from genlm.views.strategies import groups_of, own_fields, spelled

TARGET = Path(__file__).parent / "strategies.md"
MARK = "<!-- The rest of this page is written by `make docs`. -->\n"


def page() -> str:
    """The whole page: what is written by hand, then the tables."""
    head = TARGET.read_text("utf-8").partition(MARK)[0]
    return "\n".join([head + MARK, *_kinds(), *_shared()]) + "\n"


def _kinds() -> Iterator[str]:
    yield "## Kinds"
    for kind in KINDS.values():
        yield from _kind(kind)


def _kind(kind: Kind) -> Iterator[str]:
    yield from ["", f"### {kind.name}", "", f"{kind.summary[0].upper()}{kind.summary[1:]}.", ""]
    yield from ["```text", *FORMULAS[kind.name].splitlines(), "```", ""]
    own = own_fields(kind)
    yield from [*_table(own), ""] if own else []
    yield f"Takes also: {', '.join(groups_of(kind))}." + (f" Paper: {kind.paper}." if kind.paper else "")


def _shared() -> Iterator[str]:
    yield from ["", "## Shared fields"]
    for name, group in SHARED_FIELDS.items():
        yield from ["", f"### Group: {name}", "", *_table(group)]


def _table(fields: Mapping[str, Field]) -> Iterator[str]:
    yield from ["| field | default | range | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = [f"`{name}`", spelled(field.default), field.range, MEANINGS[name]]
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
