"""Strategies side by side: tables and texts for a terminal, and the same as JSON, CSV, Markdown and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from genlm.records.compare import Cell, Sample, StrategyComparison, StrategyRow
from genlm.records.serialize import as_object
from genlm.views.generation import BOUNDS, BUCKETS, parts, token_record
from genlm.views.pages import make_page, provenance
from genlm.views.pages.plots import SERIES_COLOURS, make_plots
from genlm.views.terminal import make_console, one_line, visible
from genlm.views.tokens import counted, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

BEST, REPEATED, FAILED = "bold green", "red underline", "bold red"
NAME_WIDTH = 32
GAP = 2
MOST_FAILURES = 10
# Length of a repeated passage in tokens, as in seq-rep-4.
PASSAGE = 4


@dataclass(frozen=True)
class Metric:
    """A metric as it is shown: its heading, decimal places and meaning."""

    heading: str
    places: int
    meaning: str


SHOWN = {
    "perplexity": Metric("perplexity", 1, "exp of the mean surprise of a token, under the model itself"),
    "judge_perplexity": Metric("judge ppl", 1, "the same under the judge, in its own tokens"),
    "mean_logprob": Metric("log-prob", 2, "mean log-probability of a token, in nats"),
    "entropy": Metric("entropy", 2, "mean entropy of the distributions that tokens came from, in nats"),
    "self_bleu_4": Metric("Self-BLEU-4", 2, "similarity of each text to the others, in runs of up to 4 tokens"),
    "self_bleu_5": Metric("Self-BLEU-5", 2, "the same with runs of up to 5 tokens"),
    "distinct_1": Metric("distinct-1", 2, "different tokens over all tokens"),
    "distinct_2": Metric("distinct-2", 2, "different pairs of tokens over all pairs"),
    "distinct_3": Metric("distinct-3", 2, "different runs of 3 tokens over all such runs"),
    "zipf": Metric("Zipf", 2, "how fast frequency falls with rank; in natural language about 1"),
    "repetition": Metric("repetition %", 1, "texts that end in a loop, in %"),
    "seq_rep_4": Metric("seq-rep-4", 2, "runs of 4 tokens that occurred earlier in the text, over all such runs"),
    "length": Metric("length", 1, "tokens in a text, without the one that ends it"),
    "ended": Metric("ended %", 1, "texts that ended by themselves, in %"),
    "tokens_per_s": Metric("tokens/s", 0, "new tokens per second, without the prompt"),
}


# Tables.


class Value(NamedTuple):
    """A value in a table: its text, its number to sort by, its interval if it has one, and whether it is the best."""

    text: str
    number: float | None
    interval: str = ""
    is_best: bool = False


class Column(NamedTuple):
    """A column of a table, with one value per row."""

    heading: str
    values: list[Value]


def metric_columns(comparison: StrategyComparison) -> list[Column]:
    """Return columns with the texts and tokens of each row, and one for each metric that is shown."""
    return _columns(comparison.rows, shown_metrics(comparison), _value)


def distance_columns(comparison: StrategyComparison) -> list[Column]:
    """Return columns with the distances of each strategy from the human text; none without human text."""
    reference = comparison.reference
    if reference is None:
        return []
    names = [name for name in shown_metrics(comparison) if reference.metrics[name] is not None]
    return _columns(comparison.strategies, names, _distance)


def _columns(
    rows: Sequence[StrategyRow], names: Sequence[str], value: Callable[[str, StrategyRow], Value]
) -> list[Column]:
    return [
        Column("texts", [Value(f"{len(row.samples):,}", len(row.samples)) for row in rows]),
        Column("tokens", [Value(f"{row.num_tokens:,}", row.num_tokens) for row in rows]),
        *(Column(SHOWN[name].heading, [value(name, row) for row in rows]) for name in names),
    ]


def shown_metrics(comparison: StrategyComparison) -> list[str]:
    """Return the metrics that are defined for at least one row."""
    return [name for name in comparison.metrics if any(row.metrics[name] is not None for row in comparison.rows)]


def _value(name: str, row: StrategyRow) -> Value:
    estimate = row.metrics[name]
    if estimate is None:
        return Value("–", None)
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        low, high = _spelled(name, estimate.low), _spelled(name, estimate.high)
        interval = "" if low == high else f"[{low}, {high}]"
    return Value(_spelled(name, estimate.mean), estimate.mean, interval, name in row.best)


def _distance(name: str, row: StrategyRow) -> Value:
    distance = (row.distances or {}).get(name)
    return Value("–" if distance is None else _spelled(name, distance), distance)


def _spelled(name: str, value: float) -> str:
    """Return the value with the decimal places of its metric; zero has no sign."""
    places = SHOWN[name].places
    return f"{round(value, places) + 0.0:,.{places}f}"


def table_notes(comparison: StrategyComparison) -> list[str]:
    """Return what the marks and intervals in the table mean, and how much text the metrics were computed on."""
    has_human = comparison.reference is not None
    marked = [name for row in comparison.rows for name in row.best]
    meanings = [*(["nearest to the human text"] if has_human else []), "fastest"]
    notes = [f"* {', or '.join(meanings)}, in at least 99 % of the resamples"] if marked else []
    if has_human and not marked:
        notes.append("these texts do not show which value is nearest to the human text, so none is marked")
    if any(each is not None and each.low is not None for row in comparison.rows for each in row.metrics.values()):
        notes.append("in brackets: the 95 % interval")
    for amount in dict.fromkeys(comparison.amounts.values()):
        headings = [SHOWN[name].heading for name, each in comparison.amounts.items() if each == amount]
        size = f"{counted(amount.texts, 'text')} with {counted(amount.tokens, 'token')}"
        notes.append(f"{', '.join(headings)}: of {size} from each row")
    return notes


def failures(comparison: StrategyComparison) -> list[tuple[str, str]]:
    """Return the strategy and prompt of each failed cell, and why it failed."""
    return [
        (
            one_line(row.name)
            + (f", prompt {cell.prompt + 1}" if cell.prompt is not None and len(comparison.prompts) > 1 else ""),
            one_line(cell.error or ""),
        )
        for row in comparison.rows
        for cell in row.failed
    ]


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


# On a terminal, or as plain text.


def show_comparison(stream: TextIO, comparison: StrategyComparison, *, texts: bool = True) -> None:
    """Write the metrics of all strategies and, with `texts`, the first text of each."""
    console = make_console(stream)
    _show_table(console, comparison.rows, metric_columns(comparison))
    console.print()
    for note in table_notes(comparison):
        console.print(note, style="dim", soft_wrap=False)
    columns = distance_columns(comparison)
    if columns:
        console.print("\ndistance to the human text:", style="dim")
        _show_table(console, comparison.strategies, columns)
    failed = [f"{where}: {why}" for where, why in failures(comparison)]
    # An interrupted comparison may have thousands.
    more = [f"{len(failed) - MOST_FAILURES:,} more"] if len(failed) > MOST_FAILURES else []
    for line in failed[:MOST_FAILURES] + more:
        console.print(f"failed: {line}", style=FAILED, soft_wrap=False)
    if texts:
        console.print()
        _show_texts(console, comparison)


def _show_table(console: Console, rows: Sequence[StrategyRow], columns: Sequence[Column]) -> None:
    """Write the columns as one table, or as several if the console is too narrow."""
    from rich.table import Table
    from rich.text import Text

    names = [shortened(one_line(row.name), NAME_WIDTH) for row in rows]
    width = console.width - max(Text(name).cell_len for name in names) - GAP
    for number, group in enumerate(_fitting(columns, width)):
        table = Table(box=None, padding=(0, GAP, 0, 0), show_edge=False, header_style="dim")
        table.add_column("", no_wrap=True)
        for column in group:
            table.add_column(column.heading, justify="right", no_wrap=True)
        for place, row in enumerate(rows):
            values = [_table_cell(column.values[place]) for column in group]
            table.add_row(Text(names[place], style="italic" if row.spec is None else ""), *values)
        if number:
            console.print()
        console.print(table, soft_wrap=False)


def _fitting(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Yield the columns in groups of at most `width` cells, but at least one column each."""
    group: list[Column] = []
    left = width
    for column in columns:
        lines = [column.heading, *(line for value in column.values for line in _table_cell(value).plain.split("\n"))]
        needed = GAP + max(map(len, lines))
        if group and needed > left:
            yield group
            group, left = [], width
        group.append(column)
        left -= needed
    if group:
        yield group


def _table_cell(value: Value) -> Text:
    from rich.text import Text

    # A space replaces the mark, so the digits are aligned.
    shown = Text.assemble((f"{value.text}*", BEST) if value.is_best else f"{value.text} ")
    if value.interval:
        shown.append(f"\n{value.interval} ", style="dim")
    return shown


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


def repeated(tokens: Sequence[int]) -> list[bool]:
    """Return for each token whether it is in a run of four that occurred earlier in the text."""
    marks = [False] * len(tokens)
    seen: set[tuple[int, ...]] = set()
    for at in range(len(tokens) - PASSAGE + 1):
        run = tuple(tokens[at : at + PASSAGE])
        if run in seen:
            marks[at : at + PASSAGE] = [True] * PASSAGE
        seen.add(run)
    return marks


# As JSON, CSV and Markdown.


def comparison_json(comparison: StrategyComparison) -> str:
    """Return everything as one object, which `genlm compare` can read again."""
    return as_object(comparison.to_dict())


def comparison_csv(comparison: StrategyComparison, spell: Callable[[str], str] = str) -> str:
    """Return one line per row: every metric with its interval, and with its distance if there is human text.

    Every line repeats the provenance. `spell` changes the text of each cell.
    """
    ends = ["", "_low", "_high", *(["_distance"] if comparison.reference is not None else [])]
    model, made_by = comparison.model, comparison.made_by
    origin = {
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "judge": None if comparison.judge is None else comparison.judge.name,
        "seed": comparison.seed,
        "max_new_tokens": comparison.max_new_tokens,
        "genlm": made_by.genlm,
        "torch": made_by.torch,
        "transformers": made_by.transformers,
        "date": made_by.date,
        "command": made_by.command,
    }
    metrics = (name + end for name in comparison.metrics for end in ends)
    lines = [_csv_line(["strategy", *metrics, "completions", "tokens", "error", *origin])]
    for row in comparison.rows:
        numbers = [number for name in comparison.metrics for number in _csv_numbers(row, name)[: len(ends)]]
        error = row.failed[0].error if row.failed else None
        cells = [row.name, *numbers, len(row.samples), row.num_tokens, error, *origin.values()]
        lines.append(_csv_line([spell(cell) if isinstance(cell, str) else cell for cell in cells]))
    return "".join(lines)


def _csv_line(cells: Sequence[str | float | None]) -> str:
    """Return a line of CSV. Python before 3.13 quotes carriage returns only if the line ends in one."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerow(cells)
    return stream.getvalue().removesuffix("\r\n") + "\n"


def _csv_numbers(row: StrategyRow, name: str) -> list[float | None]:
    estimate = row.metrics[name]
    ends = [None] * 3 if estimate is None else [estimate.mean, estimate.low, estimate.high]
    return [*ends, (row.distances or {}).get(name)]


def comparison_markdown(comparison: StrategyComparison) -> str:
    """Return the table with the best values in bold, the table of distances if there is human text, and notes."""

    def spelled(value: Value) -> str:
        text = f"**{value.text}**" if value.is_best else value.text
        return f"{text} {value.interval}" if value.interval else text

    parts = [_markdown_table(comparison.rows, metric_columns(comparison), spelled)]
    notes = [note.replace("* ", "in bold: ", 1) if note.startswith("* ") else note for note in table_notes(comparison)]
    parts += ["".join(f"- {note}\n" for note in notes)]
    columns = distance_columns(comparison)
    if columns:
        table = _markdown_table(comparison.strategies, columns, lambda value: value.text)
        parts += ["Distance to the human text:\n", table]
    parts += [f"- failed: {_in_markdown(where)}: {_in_markdown(why)}" for where, why in failures(comparison)]
    origin = provenance(comparison.made_by, comparison.model, comparison.seed)
    parts += ["".join(f"- {_in_markdown(line)}\n" for line in origin)]
    return "\n".join(parts)


def _markdown_table(rows: Sequence[StrategyRow], columns: Sequence[Column], spelled: Callable[[Value], str]) -> str:
    lines = [["strategy", *(column.heading for column in columns)], ["---", *("---:" for _ in columns)]]
    for place, row in enumerate(rows):
        lines.append([_in_markdown(row.name), *(spelled(column.values[place]) for column in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _in_markdown(text: str) -> str:
    """Escape a name, so that nothing in it is markup, and put it on one line."""
    escaped = "".join(f"\\{character}" if character in "\\`*_[]<>|#&~" else character for character in text)
    return one_line(escaped)


# As a page.


def comparison_page(comparison: StrategyComparison) -> str:
    """Return the page, with the texts of the first prompt and of all prompts that have traced tokens."""
    apart = distance_columns(comparison)
    headings = {name: metric.heading for name, metric in SHOWN.items()}
    traced = {
        cell.prompt
        for row in comparison.strategies
        for cell in row.cells
        if any(sample.trace is not None for sample in cell.samples)
    }
    shown = [place for place in range(len(comparison.prompts)) if place == 0 or place in traced]
    data = {
        "about": visible(comparison_summary(comparison)).replace("  ", " \u00b7 "),
        "prompts": [_prompt(comparison, place) for place in shown],
        "cut": f"Shown are the texts of {len(shown):,} of {counted(len(comparison.prompts), 'prompt')}."
        if len(shown) < len(comparison.prompts)
        else None,
        "buckets": BUCKETS,
        "bounds": BOUNDS,
        "rows": [_row(at, row) for at, row in enumerate(comparison.rows)],
        "table": _table(comparison.rows, metric_columns(comparison)),
        "apart": _table(comparison.strategies, apart) if apart else None,
        "notes": table_notes(comparison),
        "failures": [f"failed: {where}: {why}" for where, why in failures(comparison)],
        "meanings": [[SHOWN[name].heading, SHOWN[name].meaning] for name in shown_metrics(comparison)],
        "plots": [{"title": plot.title, "svg": plot.svg} for plot in make_plots(comparison, headings)],
    }
    footer = provenance(comparison.made_by, comparison.model, comparison.seed)
    return make_page("Strategies side by side", data, "compare", "tokens", footer=footer)


def _prompt(comparison: StrategyComparison, place: int) -> dict[str, Any]:
    cells = [
        {
            "row": at,
            "error": cell.error and one_line(cell.error),
            "samples": [_sample(sample) for sample in cell.samples],
        }
        for at, row in enumerate(comparison.rows)
        for cell in row.cells
        if cell.prompt == place
    ]
    return {"text": visible(comparison.prompts[place]), "cells": cells}


def _sample(sample: Sample) -> dict[str, Any]:
    head = [f"{sample.index + 1} \u00b7 {counted(len(sample.token_ids), 'token')}"]
    known = [logprob for logprob in sample.logprobs if logprob is not None]
    if known:
        head.append(f"{sum(known):.3f} nats")
    if sample.finish_reason is not None:
        head.append(sample.finish_reason)
    marks = token_marks(sample)
    tokens = [
        token_record(text, token, within) | {"again": marks.get(id(token), False)}
        for text, token, within in parts(sample)
    ]
    return {"head": ", ".join(head), "text": visible(sample.text), "tokens": tokens or None}


def _row(at: int, row: StrategyRow) -> dict[str, Any]:
    is_human = row.spec is None
    style = "human" if is_human else f"s{at % SERIES_COLOURS}"
    return {"number": at + 1, "name": one_line(row.name), "style": style, "human": is_human}


def _table(rows: Sequence[StrategyRow], columns: Sequence[Column]) -> dict[str, Any]:
    lines = []
    for at, row in enumerate(rows):
        own = _row(at, row)
        cells = [
            {
                "value": value.number,
                "text": f"{value.text}*" if value.is_best else value.text,
                "interval": value.interval,
                "best": value.is_best,
            }
            for value in (column.values[at] for column in columns)
        ]
        head = {"value": own["name"], "text": own["name"], "row": own}
        lines.append({"style": own["style"], "cells": [head, *cells]})
    return {"headings": ["strategy", *(column.heading for column in columns)], "rows": lines}
