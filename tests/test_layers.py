"""Imports point down the layers, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import genlm

PACKAGE = Path(genlm.__file__).parent
# From the top down. A layer may import itself and the layers in its row.
MAY_IMPORT = {
    "__main__": {"cli"},
    "cli": {"views", "tasks", "records", "decoding", "model", "formats", "errors", "version"},
    "__init__": {"api", "records", "decoding", "errors", "version"},
    "api": {"tasks", "records", "decoding", "model", "errors"},
    "views": {"records", "decoding", "model", "errors"},
    "tasks": {"records", "decoding", "model", "formats", "errors"},
    "records": {"decoding", "model", "version"},
    "decoding": {"model", "errors"},
    "model": {"errors"},
    "formats": {"errors"},
    "errors": set(),
    "version": set(),
}


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


PATHS = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> str:
    """`genlm.model.load` is in `model`; the package itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(module: str) -> Iterator[tuple[int, str]]:
    """Yield each line that imports a module of genlm, and that module; also inside functions and TYPE_CHECKING."""
    for node in ast.walk(ast.parse(PATHS[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name in PATHS)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            for name in node.names if node.module in PATHS else ():
                submodule = f"{node.module}.{name.name}"
                yield node.lineno, submodule if submodule in PATHS else str(node.module)


@pytest.mark.parametrize("module", PATHS)
def test_a_module_imports_only_layers_below_its_own(module: str) -> None:
    own = layer_of(module)
    for line, imported in imports_of(module):
        layer = layer_of(imported)
        assert layer == own or layer in MAY_IMPORT[own], f"{module}:{line}: {own} imports {layer}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {imported for _, imported in imports_of(module)} - {module} for module in PATHS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_table_only_points_down() -> None:
    order = list(MAY_IMPORT)
    for layer, below in MAY_IMPORT.items():
        assert all(order.index(name) > order.index(layer) for name in below)


def test_every_layer_has_a_row() -> None:
    assert {layer_of(module) for module in PATHS} == set(MAY_IMPORT)
