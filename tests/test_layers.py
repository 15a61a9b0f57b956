"""Imports point down the layers: a layer imports the layers below it and none above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import genlm

PACKAGE = Path(genlm.__file__).parent
# From the top down. A layer may import itself and the layers in its row.
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


def layer_of(module: str) -> str:
    """`genlm.model.load` is in `model`; the package itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_layers(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line that imports a layer of genlm, and the layer, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, layer_of(name.name)) for name in node.names if name.name.split(".")[0] == "genlm")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "genlm":
                for name in node.names:
                    is_layer = (PACKAGE / name.name).is_dir() or (PACKAGE / f"{name.name}.py").is_file()
                    yield node.lineno, name.name if is_layer else "__init__"
            elif node.module and node.module.startswith("genlm."):
                yield node.lineno, layer_of(node.module)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_layers_below_its_own(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for line, layer in imported_layers(path):
        assert layer == own or layer in MAY_IMPORT[own], f"{path}:{line}: {own} imports {layer}"


def test_the_table_only_points_down() -> None:
    order = list(MAY_IMPORT)
    for layer, below in MAY_IMPORT.items():
        # Any layer may read the version from the package, which imports nothing by itself.
        assert all(order.index(name) > order.index(layer) for name in below - {"__init__"})


def test_every_layer_has_a_row() -> None:
    layers = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert layers == set(MAY_IMPORT)
