"""Strategies side by side: texts and tables for a terminal, and the same as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from genlm.records.compare import METRICS, Cell, Sample, StrategyComparison, StrategyRow
from genlm.records.serialize import as_object
from genlm.views.generation import parts
from genlm.views.metrics import COLUMNS, best_note, best_rows, distance_of, interval_of, shown_metrics, value_of
from genlm.views.repeats import repeated
from genlm.views.terminal import make_console, one_line, visible
from genlm.views.tokens import counted, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

BEST, REPEATED, FAILED = "bold green", "red underline", "bold red"
NAME_WIDTH = 32
GAP = 2
# An interrupted comparison may have thousands.
MOST_FAILURES = 10


def show_comparison(stream: TextIO, comparison: StrategyComparison) -> None:
    """Write the first text of each strategy, then the metrics of all strategies."""
    console = make_console(stream)
    _show_texts(console, comparison)
    names = shown_metrics(comparison)
    _show_table(console, comparison.rows, [_Metric(comparison, name) for name in names])
    console.print(f"\n{best_note(comparison)}", style="dim", soft_wrap=False)
    if comparison.reference is not None:
        apart = [name for name in names if comparison.reference.metrics[name] is not None]
        console.print("\ndistance to the human text:", style="dim")
        _show_table(console, comparison.strategies, [_Distance(name) for name in apart])
    for line in _failures(comparison):
        console.print(line, style=FAILED, soft_wrap=False)


def _show_texts(console: Console, comparison: StrategyComparison) -> None:
    from rich.text import Text

    prompts = comparison.prompts
    console.print(Text(visible(prompts[0]), style="bold"))
    if len(prompts) > 1:
        console.print(f"the first of {counted(len(prompts), 'prompt')}", style="dim")
    for row in comparison.rows:
        cell = next((cell for cell in row.cells if cell.prompt == 0), None)
        if cell is not None:
            _show_text(console, one_line(row.name), cell)


def _show_text(console: Console, name: str, cell: Cell) -> None:
    from rich.panel import Panel
    from rich.text import Text

    if not console.is_terminal:
        console.print(f"\n{name}:")
        console.print(_first_text(cell))
        return
    note = f"1 of {len(cell.samples)}" if len(cell.samples) > 1 else None
    title, subtitle = Text(name, style="bold"), None if note is None else Text(note, style="dim")
    panel = Panel(_first_text(cell), title=title, title_align="left", subtitle=subtitle, subtitle_align="right")
    console.print(panel, soft_wrap=False)


def _first_text(cell: Cell) -> Text:
    """Return the text of a cell's first sample with repeated passages marked, or why there is none."""
    from rich.text import Text

    if not cell.samples:
        return Text(f"failed: {one_line(cell.error or '')}", style=FAILED)
    shown = Text()
    for text, is_repeated in marked(cell.samples[0]):
        shown.append(visible(text), style=REPEATED if is_repeated else None)
    return shown


def marked(sample: Sample) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a text, and whether each is in a passage that the text repeats."""
    marks = token_marks(sample)
    if not marks:
        yield sample.text, False
    for text, token, within in parts(sample):
        if within:
            yield text, marks.get(id(token), False)


def token_marks(sample: Sample) -> dict[int, bool]:
    """Return for each traced token, by its identity, whether it is in a passage that the text repeats."""
    return dict(zip(map(id, sample.trace or ()), repeated(sample.words), strict=False))


class _Metric:
    """A column of the table: a metric with its interval, the best values marked."""

    def __init__(self, comparison: StrategyComparison, name: str) -> None:
        self.heading = COLUMNS[name].heading
        self._name = name
        self._best = best_rows(comparison, name)

    def value(self, place: int, row: StrategyRow) -> tuple[str, bool]:
        """Return the value of a row, and whether it is the best."""
        return value_of(self._name, row.metrics[self._name]), place in self._best

    def interval(self, row: StrategyRow) -> str:
        """Return the interval of a row's value."""
        return interval_of(self._name, row.metrics[self._name])


class _Distance:
    """A column of the table of distances to human text."""

    def __init__(self, name: str) -> None:
        self.heading = COLUMNS[name].heading
        self._name = name

    def value(self, place: int, row: StrategyRow) -> tuple[str, bool]:
        """Return the value of a row; none is marked."""
        return distance_of(self._name, row), False

    def interval(self, row: StrategyRow) -> str:
        """Return no interval."""
        return ""


def _show_table(console: Console, rows: Sequence[StrategyRow], columns: Sequence[_Metric | _Distance]) -> None:
    """Write the columns as one table, or as several if the console is too narrow."""
    from rich.table import Table
    from rich.text import Text

    names = [shortened(one_line(row.name), NAME_WIDTH) for row in rows]
    width = console.width - max(Text(name).cell_len for name in names) - GAP
    for group in _fitting(columns, rows, width):
        table = Table(box=None, padding=(0, GAP, 0, 0), show_edge=False, header_style="dim")
        table.add_column("", no_wrap=True)
        for column in group:
            table.add_column(column.heading, justify="right", no_wrap=True)
        for place, row in enumerate(rows):
            cells = [_table_cell(column, place, row) for column in group]
            table.add_row(Text(names[place], style="italic" if row.spec is None else ""), *cells)
        console.print()
        console.print(table, soft_wrap=False)


def _fitting(
    columns: Sequence[_Metric | _Distance], rows: Sequence[StrategyRow], width: int
) -> Iterator[list[_Metric | _Distance]]:
    """Yield the columns in groups of at most `width` cells, but at least one column each."""
    group: list[_Metric | _Distance] = []
    left = width
    for column in columns:
        cells = [_table_cell(column, place, row) for place, row in enumerate(rows)]
        lines = [column.heading, *(line for cell in cells for line in cell.plain.split("\n"))]
        needed = GAP + max(map(len, lines))
        if group and needed > left:
            yield group
            group, left = [], width
        group.append(column)
        left -= needed
    if group:
        yield group


def _table_cell(column: _Metric | _Distance, place: int, row: StrategyRow) -> Text:
    from rich.text import Text

    value, is_best = column.value(place, row)
    # A space replaces the mark, so the digits are aligned.
    shown = Text.assemble((f"{value}*", BEST) if is_best else f"{value} ")
    interval = column.interval(row)
    if interval:
        shown.append(f"\n{interval} ", style="dim")
    return shown


def _failures(comparison: StrategyComparison) -> list[str]:
    lines = [f"failed: {where}: {why}" for where, why in failures(comparison)]
    more = len(lines) - MOST_FAILURES
    return lines if more <= 0 else [*lines[:MOST_FAILURES], f"failed: {more:,} more"]


def failures(comparison: StrategyComparison) -> list[tuple[str, str]]:
    """Return the strategy and prompt of each failed cell, and why it failed."""
    return [
        (one_line(row.name) + _on_prompt(comparison, cell), one_line(cell.error or ""))
        for row in comparison.rows
        for cell in row.failed
    ]


def _on_prompt(comparison: StrategyComparison, cell: Cell) -> str:
    is_plain = cell.prompt is None or len(comparison.prompts) == 1
    return "" if is_plain else f", prompt {(cell.prompt or 0) + 1}"


def comparison_summary(comparison: StrategyComparison) -> str:
    """Return what ran, in one line."""
    model, judge = comparison.model, comparison.judge
    parts = [
        f"{model.name} ({model.dtype}, {model.device})",
        *([f"judge {judge.name} ({judge.dtype})"] if judge is not None else []),
        f"seed {comparison.seed}",
        f"{len(comparison.strategies):,} strategies" if len(comparison.strategies) != 1 else "1 strategy",
        counted(len(comparison.prompts), "prompt"),
        counted(comparison.num_return_sequences, "sample"),
        f"up to {counted(comparison.max_new_tokens, 'token')}",
    ]
    return "  ".join(parts)


def comparison_json(comparison: StrategyComparison) -> str:
    """Return everything as one object, which `genlm compare` can read again."""
    return as_object(comparison.to_dict())


def comparison_csv(comparison: StrategyComparison) -> str:
    """Return one line per strategy: every metric with its interval, and with its distance if there is human text."""
    kinds = ["", "_low", "_high", *(["_distance"] if comparison.reference is not None else [])]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["strategy", *(name + kind for name in METRICS for kind in kinds), "completions", "error"])
    for row in comparison.rows:
        numbers = [_csv_numbers(row, name)[: len(kinds)] for name in METRICS]
        error = row.failed[0].error if row.failed else ""
        writer.writerow([row.name, *(number for each in numbers for number in each), len(row.samples), error])
    return stream.getvalue()


def _csv_numbers(row: StrategyRow, name: str) -> list[float | str]:
    estimate = row.metrics[name]
    ends = [None] * 3 if estimate is None else [estimate.mean, estimate.low, estimate.high]
    return ["" if number is None else number for number in [*ends, (row.distances or {}).get(name)]]


def comparison_markdown(comparison: StrategyComparison) -> str:
    """Return the table with the best values in bold, and the table of distances if there is human text."""
    names = shown_metrics(comparison)
    best = {name: best_rows(comparison, name) for name in names}

    def cell(place: int, row: StrategyRow, name: str) -> str:
        value, interval = value_of(name, row.metrics[name]), interval_of(name, row.metrics[name])
        marked_value = f"**{value}**" if place in best[name] else value
        return f"{marked_value} {interval}" if interval else marked_value

    parts = [_markdown_table(comparison.rows, names, cell)]
    if comparison.reference is not None:
        apart = [name for name in names if comparison.reference.metrics[name] is not None]
        table = _markdown_table(comparison.strategies, apart, lambda _, row, name: distance_of(name, row))
        parts += ["Distance to the human text:\n", table]
    parts += [f"- failed: {_in_markdown(where)}: {_in_markdown(why)}" for where, why in failures(comparison)]
    return "\n".join(parts).rstrip("\n") + "\n"


def _markdown_table(
    rows: Sequence[StrategyRow], names: Sequence[str], cell: Callable[[int, StrategyRow, str], str]
) -> str:
    lines = [["strategy", *(COLUMNS[name].heading for name in names)], ["---", *("---:" for _ in names)]]
    for place, row in enumerate(rows):
        lines.append([_in_markdown(row.name), *(cell(place, row, name) for name in names)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _in_markdown(text: str) -> str:
    """Escape a name, so that nothing in it is markup, and put it on one line."""
    escaped = "".join(f"\\{character}" if character in "\\`*_[]<>|#&~" else character for character in text)
    return one_line(escaped)
