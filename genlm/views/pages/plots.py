"""The plots of a comparison: quality against diversity, probability along the text, metrics along a sweep.

They contain no text of the user: each series has a number, which the page's key explains. Each is an SVG that takes its
colours and its font from the page around it. The policy of a page forbids style attributes, so those that matplotlib
writes become presentation attributes, and colours of PALETTE become variables of the page's style sheet.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree

from genlm.records.compare import Estimate, StrategyComparison, StrategyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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

# Inches and points, readable at the width of a phone.
SIZE, FONT_SIZE = (4.6, 3.2), 10.5
# More lines than this cannot be distinguished.
MOST_LINES = 8
DIVERSITY = ("self_bleu_4", "distinct_3")
ALONG_SWEEP = ("perplexity", "self_bleu_4", "distinct_3", "zipf", "repetition", "seq_rep_4")
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Plot:
    """A plot with its title."""

    title: str
    svg: Tree


def make_plots(comparison: StrategyComparison, headings: Mapping[str, str]) -> list[Plot]:
    """Return every plot that the comparison has numbers for; `headings` name its metrics."""
    # It warns if it cannot write its cache, which does not matter here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    plots = [
        _against_diversity(comparison, headings),
        _along_position(comparison),
        *_along_sweeps(comparison, headings),
    ]
    return [plot for plot in plots if plot is not None]


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=SOFT, fontsize=FONT_SIZE)
    axes.set_ylabel(y, color=SOFT, fontsize=FONT_SIZE)
    axes.tick_params(which="both", colors=SOFT, labelsize=FONT_SIZE)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    return figure, axes


def _against_diversity(comparison: StrategyComparison, headings: Mapping[str, str]) -> Plot | None:
    name = next((name for name in DIVERSITY if _defined(comparison, "perplexity", name)), None)
    if name is None:
        return None
    figure, axes = _axes(headings["perplexity"], headings[name])
    for at, row in enumerate(comparison.rows):
        x, y = row.metrics["perplexity"], row.metrics[name]
        if x is not None and y is not None:
            _point(axes, x, y, at, row)
    _logarithmic(axes, [row.metrics["perplexity"] for row in comparison.rows])
    human = ", H the human text" if comparison.reference is not None else ""
    note = f"Perplexity against {headings[name]}, with 95 % intervals{human}"
    return Plot(note, svg_tree(figure, "diversity"))


def _defined(comparison: StrategyComparison, *names: str) -> bool:
    return any(all(row.metrics.get(name) is not None for name in names) for row in comparison.strategies)


def _point(axes: Axes, x: Estimate, y: Estimate, at: int, row: StrategyRow) -> None:
    is_human = row.spec is None
    colour = INK if is_human else series_colour(at)
    axes.errorbar(x.mean, y.mean, xerr=_errors(x), yerr=_errors(y), color=colour, elinewidth=1, alpha=0.45, fmt="none")
    axes.plot(x.mean, y.mean, "*" if is_human else MARKERS[at % 7], color=colour, markersize=12 if is_human else 6)
    if is_human:
        axes.axvline(x.mean, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.axhline(y.mean, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    _label(axes, "H" if is_human else str(at + 1), (x.mean, y.mean), colour)


def _label(axes: Axes, text: str, place: tuple[float, float], colour: str) -> None:
    axes.annotate(text, place, xytext=(5, 4), textcoords="offset points", color=colour, fontsize=FONT_SIZE)


def _errors(estimate: Estimate) -> Any:
    """Return the distances of the interval's ends from the value, as matplotlib expects them."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.mean - estimate.low)], [max(0.0, estimate.high - estimate.mean)]]


def _logarithmic(axes: Axes, estimates: Sequence[Estimate | None]) -> None:
    """Make the axis logarithmic, with plain numbers at its ticks, if perplexities differ a lot."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    values = [estimate.mean for estimate in estimates if estimate is not None]
    if min(values) > 0 and max(values) / min(values) > 5:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _along_position(comparison: StrategyComparison) -> Plot | None:
    lines = [(at, row, _probabilities(row)) for at, row in enumerate(comparison.rows)]
    lines = [line for line in lines if len(line[2]) > 1]
    shown = [line for line in lines if line[1].spec is None] + [line for line in lines if line[1].spec][:MOST_LINES]
    if not shown:
        return None
    figure, axes = _axes("position of the token", "probability")
    for turn, (at, row, probabilities) in enumerate(shown, 1):
        is_human = row.spec is None
        colour = INK if is_human else series_colour(at)
        dashes: Any = (0, (3, 2)) if is_human else "solid"
        axes.plot(
            range(1, len(probabilities) + 1), probabilities, linewidth=1.2, alpha=0.85, color=colour, linestyle=dashes
        )
        # Each line has its number at another position, so that the numbers do not overlap.
        place = len(probabilities) * turn // (len(shown) + 1)
        _label(axes, "H" if is_human else str(at + 1), (place + 1, probabilities[place]), colour)
    axes.set_ylim(-0.02, 1.1)
    more = f"; the first {MOST_LINES} strategies" if len(lines) > len(shown) else ""
    return Plot(f"Mean probability of the tokens at each position of the texts{more}", svg_tree(figure, "position"))


def _probabilities(row: StrategyRow) -> list[float]:
    """Return the mean probability at each position, over the texts that reach it."""
    columns: list[list[float]] = []
    for sample in row.samples:
        for at, logprob in enumerate(sample.logprobs):
            if at == len(columns):
                columns.append([])
            if logprob is not None:
                columns[at].append(math.exp(min(0.0, logprob)))
    return [math.fsum(column) / len(column) for column in columns if column]


def _along_sweeps(comparison: StrategyComparison, headings: Mapping[str, str]) -> Iterator[Plot]:
    """Yield a plot of each metric along each field that was swept over numbers, with a line per setting of the rest."""
    fields = dict.fromkeys(field for row in comparison.strategies for field in row.swept)
    for field in fields:
        lines = _lines(comparison, field)
        if not lines:
            continue
        for name in (name for name in ALONG_SWEEP if name in comparison.metrics):
            values = {estimate.mean for line in lines for _, row in line if (estimate := row.metrics[name])}
            if len(values) > 1:
                human = comparison.reference.metrics[name] if comparison.reference is not None else None
                figure = _along_sweep(field, name, headings[name], lines, human)
                yield Plot(f"{headings[name]} along {field}", svg_tree(figure, f"{field}-{name}"))


def _lines(comparison: StrategyComparison, field: str) -> list[list[tuple[int, StrategyRow]]]:
    """Return groups of rows that differ only in the field, in the order of its values, each row with its index."""
    groups: dict[Any, list[tuple[int, StrategyRow]]] = {}
    for at, row in enumerate(comparison.strategies):
        if _is_number(row.swept.get(field)):
            others = tuple((key, value) for key, value in row.swept.items() if key != field)
            kind = (row.spec or "").partition(":")[0]
            groups.setdefault((kind, others), []).append((at, row))
    return [sorted(line, key=lambda each: float(each[1].swept[field])) for line in groups.values() if len(line) > 1]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _along_sweep(
    field: str, name: str, heading: str, lines: Sequence[list[tuple[int, StrategyRow]]], human: Estimate | None
) -> Figure:
    figure, axes = _axes(field, heading)
    for line in lines:
        points = [(at, row, row.metrics[name]) for at, row in line]
        there = [(at, float(row.swept[field]), estimate) for at, row, estimate in points if estimate is not None]
        if there:
            _sweep_line(axes, there)
    if human is not None:
        axes.axhline(human.mean, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.annotate("H", (0.01, human.mean), xycoords=("axes fraction", "data"), color=INK, fontsize=FONT_SIZE)
    return figure


def _sweep_line(axes: Axes, points: Sequence[tuple[int, float, Estimate]]) -> None:
    first = points[0][0]
    colour = series_colour(first)
    x = [value for _, value, _ in points]
    low = [estimate.mean if estimate.low is None else estimate.low for _, _, estimate in points]
    high = [estimate.mean if estimate.high is None else estimate.high for _, _, estimate in points]
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(x, [estimate.mean for _, _, estimate in points], "o-", color=colour, markersize=4, linewidth=1.4)
    for at, value, estimate in points:
        _label(axes, str(at + 1), (value, estimate.mean), colour)


# Figures as SVG.


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
