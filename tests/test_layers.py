"""Imports point down the layers only: a room knows the rooms below it and none above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import genlm

PACKAGE = Path(genlm.__file__).parent
# From the top down. A room may import itself and what stands in its row.
MAY_IMPORT = {
    "__main__": {"cli"},
    "cli": {"views", "tasks", "records", "decoding", "model", "formats", "errors", "__init__"},
    "__init__": {"api", "records", "decoding", "errors"},
    "api": {"tasks", "records", "decoding", "model", "errors"},
    "views": {"records", "decoding", "model", "errors"},
    "tasks": {"records", "decoding", "model", "formats", "errors"},
    "records": {"decoding", "model", "__init__"},
    "decoding": {"model", "errors"},
    "model": {"errors"},
    "formats": {"errors"},
    "errors": set(),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """`genlm.model.load` is in `model`; the package itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Every room of genlm that a file imports, with the line; inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, room_of(name.name)) for name in node.names if name.name.split(".")[0] == "genlm")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "genlm":
                for name in node.names:
                    is_room = (PACKAGE / name.name).is_dir() or (PACKAGE / f"{name.name}.py").is_file()
                    yield node.lineno, name.name if is_room else "__init__"
            elif node.module and node.module.startswith("genlm."):
                yield node.lineno, room_of(node.module)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_rooms_below_its_own(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for line, room in imported_rooms(path):
        assert room == own or room in MAY_IMPORT[own], f"{path}:{line}: {own} imports {room}"


def test_the_rows_themselves_point_down() -> None:
    order = list(MAY_IMPORT)
    for room, below in MAY_IMPORT.items():
        # Any layer may read the version from the package, which imports nothing by itself.
        assert all(order.index(name) > order.index(room) for name in below - {"__init__"})


def test_every_room_has_a_row() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms == set(MAY_IMPORT)
