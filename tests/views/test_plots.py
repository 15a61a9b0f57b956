"""Figures as trees of SVG elements, without anything that the content security policy forbids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from genlm.views.pages.plots import INK, PALETTE, SERIES_COLOURS, series_colour, svg_tree


def drawn(name: str = "plot") -> Any:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_subplot()
    axes.plot([1, 2, 3], [3, 1, 2], "o-", color=series_colour(1))
    axes.axhline(2, color=INK)
    axes.set_xlabel("a <label> & more")
    return svg_tree(figure, name)


def elements(tree: Any) -> Iterator[tuple[str, dict[str, str], list[Any]]]:
    tag, attributes, *children = tree
    yield tag, attributes, children
    for child in children:
        if not isinstance(child, str):
            yield from elements(child)


def test_only_plain_elements_without_styles_are_kept() -> None:
    tags = {tag for tag, _, _ in elements(drawn())}
    assert tags == {"svg", "g", "path", "use", "text", "defs", "clipPath", "rect"}
    assert not any("style" in attributes for _, attributes, _ in elements(drawn()))


def test_colours_are_variables_of_the_page() -> None:
    used = {value for _, attributes, _ in elements(drawn()) for value in attributes.values()}
    assert {"var(--s1)", "var(--ink)"} <= used
    assert not set(PALETTE) & used
    assert len({series_colour(at) for at in range(20)}) == SERIES_COLOURS


def test_text_stays_text_with_its_size() -> None:
    sizes = {
        children[0]: float(attributes["font-size"].removesuffix("px"))
        for tag, attributes, children in elements(drawn())
        if tag == "text"
    }
    assert sizes["a <label> & more"] == 10


def test_references_stay_within_their_figure() -> None:
    found = list(elements(drawn("first")))
    ids = {attributes["id"] for _, attributes, _ in found if "id" in attributes}
    assert all(id.startswith("first-") for id in ids)
    for _, attributes, _ in found:
        for key, value in attributes.items():
            if key == "href":
                assert value[1:] in ids
            elif value.startswith("url("):
                assert value[5:-1] in ids


def test_the_same_figure_gives_the_same_tree() -> None:
    assert drawn() == drawn()


def test_a_figure_has_proportions_but_no_size() -> None:
    _, attributes, *_ = drawn()
    assert "viewBox" in attributes
    assert not {"width", "height"} & attributes.keys()
