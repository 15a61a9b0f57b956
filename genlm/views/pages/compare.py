"""The page of a comparison: texts side by side, sortable tables, plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genlm.records.compare import Sample, StrategyComparison, StrategyRow
from genlm.views.compare import (
    SHOWN,
    Column,
    comparison_summary,
    distance_columns,
    failures,
    metric_columns,
    shown_metrics,
    table_notes,
    token_marks,
)
from genlm.views.generation import BOUNDS, BUCKETS, parts, token_record
from genlm.views.pages import make_page, provenance
from genlm.views.pages.plots import make_plots
from genlm.views.pages.svg import SERIES_COLOURS
from genlm.views.terminal import one_line, visible
from genlm.views.tokens import counted


def comparison_page(comparison: StrategyComparison) -> str:
    """Return the page, with the texts of the first prompt and of all prompts that have traced tokens."""
    apart = distance_columns(comparison)
    shown = _prompts_shown(comparison)
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
        "plots": [{"title": plot.title, "svg": plot.svg} for plot in make_plots(comparison)],
    }
    footer = provenance(comparison.made_by, comparison.model, comparison.seed)
    return make_page("Strategies side by side", data, "compare", "tokens", footer=footer)


def _prompts_shown(comparison: StrategyComparison) -> list[int]:
    traced = {
        cell.prompt
        for row in comparison.strategies
        for cell in row.cells
        if any(sample.trace is not None for sample in cell.samples)
    }
    return [place for place in range(len(comparison.prompts)) if place == 0 or place in traced]


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
