"""`genlm compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from genlm.cli import options
from genlm.cli.command import check_alone, grouped
from genlm.cli.strategies import choose_strategy
from genlm.decoding.grid import Axis, axes_of, check_axes, crossed, read_axis
from genlm.decoding.request import draw_seed
from genlm.errors import PartlyFailed, UsageError
from genlm.formats.output import csv_safe, open_output
from genlm.formats.rows import read_human_texts, read_prompts
from genlm.formats.texts import read_prompt
from genlm.model.fingerprint import fingerprinted
from genlm.model.source import Notify
from genlm.records.compare import METRICS, StrategyComparison
from genlm.tasks.compare import DEFAULT_STRATEGIES, Comparer, ComparisonSettings, Contender
from genlm.tasks.generate import DEFAULT_NEW_TOKENS
from genlm.tasks.saved import read_comparison
from genlm.views.compare import (
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_page,
    comparison_summary,
    failures,
    show_comparison,
)
from genlm.views.progress import ProgressBar, Spinner
from genlm.views.terminal import Writer, notices

if TYPE_CHECKING:
    from genlm.model.load import Model

compare_option = options.panel("What to compare")
# Options that can be combined with --from; the saved comparison holds all other settings.
WITH_SAVED = {"saved", "metrics", "texts", "format", "csv_safe", "output", "html", "quiet"}
# The texts of more strategies would push the table off the screen.
MOST_TEXTS = 4
Format = Literal["text", "json", "csv", "markdown"]


@dataclass(frozen=True)
class ResultOptions:
    """Which parts of the result to show, and how."""

    metrics: Annotated[
        str | None,
        options.output_option(
            metavar="NAME,...", help=f"Compute and show only these metrics. Default: all: {', '.join(METRICS)}."
        ),
    ] = None
    texts: Annotated[
        bool | None,
        options.output_option(
            "--texts/--no-texts",
            help="Show the first text of each strategy below the tables. Default: for one prompt and at most "
            f"{MOST_TEXTS} strategies.",
        ),
    ] = None
    format: Annotated[
        Format,
        options.output_option(
            metavar="FORMAT", help="text, json: everything, csv: one line per strategy, or markdown: a table."
        ),
    ] = "text"
    csv_safe: options.CsvSafe = False

    def names(self) -> tuple[str, ...]:
        """Return the names of the metrics. Raise UsageError if one does not exist."""
        if self.metrics is None:
            return METRICS
        names = tuple(name.strip() for name in self.metrics.split(","))
        unknown = next((name for name in names if name not in METRICS), None)
        if unknown is not None:
            raise UsageError(f"--metrics: no metric {unknown!r}", hint=f"choose from {', '.join(METRICS)}")
        return names

    def write(self, comparison: StrategyComparison, stream: TextIO, page: TextIO | None) -> None:
        """Write the result in its format, and the page."""
        if self.format == "text":
            is_short = len(comparison.prompts) == 1 and len(comparison.strategies) <= MOST_TEXTS
            show_comparison(stream, comparison, texts=is_short if self.texts is None else self.texts)
        else:
            writers: dict[str, Callable[[StrategyComparison], str]] = {
                "json": comparison_json,
                "csv": partial(comparison_csv, spell=csv_safe if self.csv_safe else str),
                "markdown": comparison_markdown,
            }
            Writer(stream).write(writers[self.format](comparison))
        if page is not None:
            page.write(comparison_page(comparison))


@grouped
def compare(
    context: typer.Context,
    *,
    prompt: options.Prompt = None,
    file: Annotated[
        Path | None,
        options.input_option(
            metavar="FILE",
            help="Read the prompts from this file: one per line, or the column prompt of a .jsonl, .csv, .tsv or "
            ".parquet file.",
        ),
    ] = None,
    saved: Annotated[
        Path | None,
        options.input_option(
            "--from", metavar="FILE", help="Show a saved --format json comparison; no model is loaded."
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        compare_option(
            "--strategy",
            "-s",
            metavar="SPEC",
            help="KIND[:FIELD=VALUE,...], or @NAME for a preset; may be repeated. Default: greedy, beam, top-k and "
            "top-p.",
        ),
    ] = None,
    presets: options.Presets = None,
    grid: Annotated[
        list[str] | None,
        compare_option(
            metavar="FIELD=VALUES",
            help="Run each strategy with every value of a field, such as top_p=0.8,0.9 or top_p=0.5..0.9..0.1 "
            "(first..last..step); may be repeated for all combinations.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        compare_option(
            metavar="FILE",
            help="Human texts to measure the strategies against, shown as a separate row: one text per line, or the "
            "column text. A text that starts with one of the prompts is read as its continuation.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        compare_option(metavar="MODEL", help="Also measure the perplexity of the texts under this model."),
    ] = None,
    seed: options.Seed = None,
    max_new_tokens: options.MaxNewTokens = DEFAULT_NEW_TOKENS,
    num_return_sequences: Annotated[
        int,
        options.length_option(
            "--num-return-sequences",
            "-n",
            metavar="N",
            help="Number of completions per prompt; at most num_beams for beam search, and one for other searches.",
        ),
    ] = 1,
    overflow: options.OnOverflow = "error",
    model: options.ModelOptions,
    result: ResultOptions,
    output: options.Output = None,
    html: options.Html = None,
    quiet: options.Quiet = False,
) -> None:
    """Compare strategies side by side: their texts and metrics.

    genlm compare "Once upon a time" -n 8
    genlm compare "Once upon a time" -s greedy -s top-p --grid top_p=0.5..0.9..0.1 --html page.html
    genlm compare --file prompts.txt --reference stories.txt --judge gpt2-large --format json -o out.json
    genlm compare --from out.json --html page.html
    """
    notify = notices(quiet=quiet)
    if saved is not None:
        check_alone(context, "--from", only=WITH_SAVED, hint="the saved comparison holds all other settings")
        with open_output(output) as stream, options.open_page(html, output) as page:
            comparison = read_comparison(saved)
            result.write(_selected(comparison, result.names()), stream, page)
        _check_whole(comparison)
        return
    with open_output(output) as stream, options.open_page(html, output) as page:
        contenders = choose_contenders(strategy or (), presets, grid or (), notify)
        settings = ComparisonSettings(
            max_new_tokens, num_return_sequences, draw_seed() if seed is None else seed, overflow, result.names()
        )
        prompts = _prompts(prompt, file)
        human = read_human_texts(reference) if reference is not None else ()
        cells = len(human) + len(contenders) * len(prompts)
        with Spinner(enabled=not quiet) as spinner:
            judging = None if judge is None else _load(replace(model, name=judge, revision=None), notify, spinner)
            loaded = _load(model, notify, spinner)
        with ProgressBar("comparing", cells, enabled=not quiet) as bar:
            comparing = Comparer(
                loaded,
                prompts,
                contenders,
                settings,
                human=human,
                judge=judging,
                on_progress=lambda name, done: bar.update(done, name),
            )
            is_interrupted = _run(comparing, bar)
        with Spinner(enabled=not quiet) as spinner:
            spinner.say("measuring")
            comparison = comparing.result
        result.write(comparison, stream, page)
    notify(comparison_summary(comparison))
    if is_interrupted:
        notify(f"interrupted: {comparing.done:,} of {len(comparing):,} cells are complete, the others count as failed")
        raise KeyboardInterrupt
    _check_whole(comparison)


def _load(model: options.ModelOptions, notify: Notify, spinner: Spinner) -> Model:
    """Load a model with its fingerprint. Raise ModelError if that fails."""
    return model.load_found(fingerprinted(model.find(notify), allow_pickle=model.allow_pickle), spinner)


def choose_contenders(
    specs: Sequence[str], presets: Path | None, grid: Sequence[str], notify: Callable[[str], None]
) -> list[Contender]:
    """Return the strategies to compare: each spec with every combination of the grid's values.

    A strategy that takes none of the grid's fields runs once. Without specs, the fields select the kind, as the plain
    flags of `genlm generate` do; without fields either, the four best-known kinds are compared.

    Raises:
        UsageError: an invalid spec, preset, field or grid, or a field that none of the strategies takes.
        InputError: a file of presets that cannot be read.
    """
    axes = [read_axis(text) for text in grid]
    check_axes(axes)
    if presets is not None and not any(spec.startswith("@") for spec in specs):
        raise UsageError("--presets is given, but no preset is used", hint="-s @NAME uses one")
    wanted: Sequence[str | None] = specs or ([None] if axes else DEFAULT_STRATEGIES)
    found = [contender for spec in wanted for contender in _swept(spec, presets, axes, notify)]
    unused = next((axis.field for axis in axes if not any(axis.field in each.swept for each in found)), None)
    if unused is not None:
        raise UsageError(f"--grid: the field {unused!r} applies to none of the strategies")
    return list({(each.strategy.name, each.strategy): each for each in found}.values())


def _swept(
    spec: str | None, presets: Path | None, axes: Sequence[Axis], notify: Callable[[str], None]
) -> list[Contender]:
    if spec is None or not spec.startswith("@"):
        presets = None
    if spec is not None:
        axes = axes_of(axes, choose_strategy(spec, presets, {}, lambda _: None).kind)
    return [Contender(choose_strategy(spec, presets, fields, notify), fields) for fields in crossed(axes)]


def _run(comparing: Comparer, bar: ProgressBar) -> bool:
    """Run the cells until the end or Ctrl-C. Return whether it was interrupted.

    Raises:
        KeyboardInterrupt: no strategy has a text yet.
    """
    try:
        for _ in bar.count(comparing):
            pass
    except KeyboardInterrupt:
        if not comparing.has_samples:
            raise
        comparing.stop("interrupted")
        return True
    return False


def _selected(comparison: StrategyComparison, names: Sequence[str]) -> StrategyComparison:
    """Return a saved comparison with only the metrics called `names`. Raise UsageError if it has none of them."""
    kept = [name for name in comparison.metrics if name in names]
    if not kept:
        raise UsageError(
            "--metrics: the saved comparison has none of these", hint=f"it has {', '.join(comparison.metrics)}"
        )
    rows = tuple(
        replace(
            row,
            metrics={name: row.metrics[name] for name in kept},
            distances=row.distances and {name: row.distances[name] for name in kept},
            best=tuple(name for name in row.best if name in kept),
        )
        for row in comparison.rows
    )
    amounts = {name: amount for name, amount in comparison.amounts.items() if name in kept}
    return replace(comparison, rows=rows, amounts=amounts)


def _prompts(prompt: str | None, file: Path | None) -> tuple[str, ...]:
    if file is None:
        return (read_prompt(prompt),)
    if prompt is not None:
        raise UsageError("PROMPT and --file cannot be combined")
    return read_prompts(file)


def _check_whole(comparison: StrategyComparison) -> None:
    """Raise PartlyFailed if any cell failed."""
    failed = failures(comparison)
    if failed:
        cells = sum(len(row.cells) for row in comparison.rows)
        where, why = failed[0]
        raise PartlyFailed(f"{len(failed):,} of {cells:,} cells failed, the first {where}: {why}")
