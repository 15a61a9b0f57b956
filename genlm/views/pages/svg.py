"""A matplotlib figure as SVG that takes its colours and its font from the page around it.

The policy of a page forbids style attributes, so those that matplotlib writes become presentation attributes, and
colours of PALETTE become variables of the page's style sheet.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# An element as the page's script builds it: its name, its attributes, its children.
Tree: TypeAlias = list[Any]

SERIES_COLOURS = 8
# Placeholders for the page's colours. No plot contains them by chance.
SOFT, LINE, INK, PAPER = "#010101", "#020202", "#030303", "#040404"
PALETTE = {SOFT: "var(--soft)", LINE: "var(--line)", INK: "var(--ink)", PAPER: "var(--card)"} | {
    f"#0000{at + 1:02x}": f"var(--s{at})" for at in range(SERIES_COLOURS)
}
KEPT = {"svg", "g", "path", "use", "text", "tspan", "defs", "clipPath", "rect"}
FONT = re.compile(r"([\d.]+)px")


def series_colour(at: int) -> str:
    """Return the placeholder for the colour of a series; after SERIES_COLOURS they repeat."""
    return f"#0000{at % SERIES_COLOURS + 1:02x}"


def svg_tree(figure: Figure, name: str) -> Tree:
    """Return a figure as a tree of elements, always the same; the ids in it start with `name`."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "genlm", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    root = ElementTree.fromstring(stream.getvalue())
    tree = _tree(root, name)
    # The page sets the width, and the proportions of the picture set the height.
    del tree[1]["width"], tree[1]["height"]
    return tree


def _tree(element: ElementTree.Element, name: str) -> Tree:
    children: list[Any] = [element.text] if element.text and element.text.strip() else []
    children += [_tree(child, name) for child in element if _tag(child.tag) in KEPT]
    return [_tag(element.tag), _attributes(element, name), *children]


def _tag(qualified: str) -> str:
    return qualified.rpartition("}")[2]


def _attributes(element: ElementTree.Element, name: str) -> dict[str, str]:
    found = {_tag(key): value for key, value in element.attrib.items()}
    found |= dict(_declarations(found.pop("style", "")))
    for key, value in found.items():
        if key == "id":
            found[key] = f"{name}-{value}"
        elif key == "href":
            found[key] = f"#{name}-{value[1:]}"
        else:
            found[key] = PALETTE.get(value, value.replace("url(#", f"url(#{name}-"))
    return found


def _declarations(style: str) -> list[tuple[str, str]]:
    """Return the properties of a style attribute. Of a font only the size is kept: the page has its own font."""
    pairs = [tuple(part.strip() for part in each.split(":", 1)) for each in style.split(";") if ":" in each]
    found = []
    for key, value in pairs:
        size = FONT.search(value) if key == "font" else None
        found.append(("font-size", size[1]) if size is not None else (key, value))
    return found
