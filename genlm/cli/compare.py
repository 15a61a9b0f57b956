"""`genlm compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from genlm.cli import options
from genlm.cli.command import check_saved_alone
from genlm.cli.contenders import choose_contenders
from genlm.cli.grouped import grouped
from genlm.cli.loading import ModelOptions
from genlm.cli.pages import open_page
from genlm.decoding.request import draw_seed
from genlm.errors import PartlyFailed, UsageError
from genlm.formats.output import open_output
from genlm.formats.prompt import read_prompt
from genlm.formats.prompts import read_human_texts, read_prompts
from genlm.records.compare import StrategyComparison
from genlm.tasks.compare import Comparing, Settings
from genlm.tasks.generate import DEFAULT_NEW_TOKENS
from genlm.tasks.saved import read_comparison
from genlm.views.compare import (
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_summary,
    failures,
    show_comparison,
)
from genlm.views.pages.compare import comparison_page
from genlm.views.progress import ProgressBar
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices

compare_option = options.panel("What to compare")
# What a saved comparison does not tell.
WITH_SAVED = {"saved", "format", "output", "html", "quiet"}
Format = Literal["text", "json", "csv", "markdown"]
WRITERS = {"json": comparison_json, "csv": comparison_csv, "markdown": comparison_markdown}


@grouped
def compare(
    context: typer.Context,
    *,
    prompt: options.Prompt = None,
    file: Annotated[
        Path | None,
        options.input_option(
            metavar="FILE",
            help="Take the prompts from this file: a line each, or the column prompt of a .jsonl, .csv, .tsv or "
            ".parquet file.",
        ),
    ] = None,
    saved: Annotated[
        Path | None,
        options.input_option(
            "--from", metavar="FILE", help="Show a comparison that --format json has written. No model is loaded."
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        compare_option(
            "--strategy",
            "-s",
            metavar="SPEC",
            help="KIND[:FIELD=VALUE,...], or @NAME for a preset; may be repeated. Without any: greedy, beam, top-k "
            "and top-p.",
        ),
    ] = None,
    presets: options.Presets = None,
    grid: Annotated[
        list[str] | None,
        compare_option(
            metavar="FIELD=VALUES",
            help="Sweep a field of the strategies, as top_p=0.8,0.9 or top_p=0.5..0.9..0.1 (first..last..step); may be "
            "repeated: every combination runs.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        compare_option(
            metavar="FILE",
            help="Human text, a line each, or the column text of such a file: a row of its own, and the strategies' "
            "distance to it. A text that begins with a prompt is read as its continuation.",
        ),
    ] = None,
    judge: Annotated[
        str | None, compare_option(metavar="NAME", help="Another model, whose perplexity of the texts is a metric too.")
    ] = None,
    seed: options.Seed = None,
    max_new_tokens: options.MaxNewTokens = DEFAULT_NEW_TOKENS,
    samples: Annotated[
        int,
        options.length_option(
            "--samples",
            "-n",
            metavar="N",
            help="How many completions of each prompt; of beams as many as there are, of other searches one.",
        ),
    ] = 1,
    overflow: options.OnOverflow = "error",
    model: ModelOptions,
    format: Annotated[
        Format,
        options.output_option(metavar="FORMAT", help="text, json: everything, csv: a line a strategy, or markdown."),
    ] = "text",
    output: options.Output = None,
    html: options.Html = None,
    quiet: options.Quiet = False,
) -> None:
    """Compare strategies side by side: their texts, and what the metrics say of them.

    genlm compare "Once upon a time" -n 8
    genlm compare "Once upon a time" -s greedy -s top-p --grid top_p=0.5..0.9..0.1 --html page.html
    genlm compare --file prompts.txt --reference stories.txt --judge gpt2-large --format json -o out.json
    genlm compare --from out.json --html page.html
    """
    notify = notices(quiet=quiet)
    if saved is not None:
        check_saved_alone(context, "--from", "comparison", only=WITH_SAVED)
        _show_saved(saved, format, output, html)
        return
    with open_output(output) as stream, open_page(html, output) as page:
        contenders = choose_contenders(strategy or (), presets, grid or (), notify)
        settings = Settings(max_new_tokens, samples, draw_seed() if seed is None else seed, overflow)
        prompts = _prompts(prompt, file)
        human = read_human_texts(reference) if reference is not None else ()
        with Spinner(enabled=not quiet) as spinner:
            judging = None if judge is None else replace(model, name=judge, revision=None).load(notify, spinner)
            loaded = model.load(notify, spinner)
            comparing = Comparing(loaded, prompts, contenders, settings, human=human, judge=judging)
        with ProgressBar("comparing", len(comparing), enabled=not quiet) as bar:
            is_interrupted = _run(comparing, bar)
        result = comparing.result
        _write(result, format, stream, page)
    notify(comparison_summary(result))
    if is_interrupted:
        notify(f"interrupted: {comparing.done:,} of {len(comparing):,} cells are there, the others count as failed")
        raise KeyboardInterrupt
    _check_whole(result)


def _run(comparing: Comparing, bar: ProgressBar) -> bool:
    """Run all cells, or those for which there is time until Ctrl-C. Returns whether that was pressed.

    Raises:
        KeyboardInterrupt: where no strategy has a text by then.
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


def _show_saved(saved: Path, format: Format, output: Path | None, html: Path | None) -> None:
    """Show a comparison again. Raises PartlyFailed as the run did that made it."""
    with open_output(output) as stream, open_page(html, output) as page:
        comparison = read_comparison(saved)
        _write(comparison, format, stream, page)
    _check_whole(comparison)


def _prompts(prompt: str | None, file: Path | None) -> tuple[str, ...]:
    if file is None:
        return (read_prompt(prompt),)
    if prompt is not None:
        raise UsageError("a prompt as argument and --file at once: which is it?")
    return read_prompts(file)


def _write(comparison: StrategyComparison, format: Format, stream: TextIO, page: TextIO | None) -> None:
    if format == "text":
        show_comparison(stream, comparison)
    else:
        stream.write(WRITERS[format](comparison))
    if page is not None:
        page.write(comparison_page(comparison))


def _check_whole(comparison: StrategyComparison) -> None:
    """Raise PartlyFailed where some of the cells failed."""
    failed = failures(comparison)
    if failed:
        cells = sum(len(row.cells) for row in comparison.rows)
        where, why = failed[0]
        raise PartlyFailed(f"{len(failed):,} of {cells:,} cells failed, the first {where}: {why}")
