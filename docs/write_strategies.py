"""Write the tables at the end of docs/strategies.md from the declarations of the kinds: `make docs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from genlm.decoding.declaration import Field, Kind
from genlm.decoding.kinds import KINDS
from genlm.decoding.kinds.shared import SHARED
from genlm.views.strategies import fields_of, own_fields, shared_groups

TARGET = Path(__file__).parent / "strategies.md"
MARK = "<!-- The rest of this page is written by `make docs`. -->\n"


def page() -> str:
    """Return the whole page: the part written by hand, then the tables."""
    head = TARGET.read_text("utf-8").partition(MARK)[0]
    return "\n".join([head + MARK, *_kinds(), *_shared()]) + "\n"


def _kinds() -> Iterator[str]:
    yield "## Kinds"
    for kind in KINDS.values():
        yield from _kind(kind)


def _kind(kind: Kind) -> Iterator[str]:
    yield from ["", f"### {kind.name}", "", f"{kind.summary[0].upper()}{kind.summary[1:]}.", ""]
    yield from ["```text", *kind.formula.splitlines(), "```", ""]
    own = own_fields(kind)
    yield from [*_table(own), ""] if own else []
    yield f"Also takes: {', '.join(shared_groups(kind))}." + (f" Paper: {kind.paper}." if kind.paper else "")


def _shared() -> Iterator[str]:
    yield from ["", "## Shared fields"]
    for name, group in SHARED.items():
        yield from ["", f"### Group: {name}", "", *_table(fields_of(group))]


def _table(fields: Iterable[Field[Any]]) -> Iterator[str]:
    yield from ["| field | default | range | meaning |", "|---|---|---|---|"]
    for field in fields:
        cells = [f"`{field.name}`", field.format(field.default), field.values.range, field.description]
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
