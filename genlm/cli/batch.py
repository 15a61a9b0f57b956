"""`genlm batch`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genlm.cli import options
from genlm.cli.loading import load_found
from genlm.cli.signals import graceful_interrupt
from genlm.cli.strategies import choose_strategy
from genlm.decoding.randomness import draw_seed
from genlm.errors import InputError, OutputError, UsageError
from genlm.formats.journal import open_journal
from genlm.formats.prompt import check_utf8
from genlm.formats.rows import STDIN, open_inputs
from genlm.formats.template import Template, unescape
from genlm.model.source import find_model
from genlm.tasks.batch.jobs import Fields, Settings
from genlm.tasks.batch.ledger import open_ledger
from genlm.tasks.batch.run import Batch, journal_path
from genlm.tasks.batch.work import model_of, run_jobs
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, Limits
from genlm.views.as_json import as_line
from genlm.views.batch import BatchProgress
from genlm.views.spinner import Spinner
from genlm.views.terminal import notice

if TYPE_CHECKING:
    from genlm.model.load import Model

SOME_FAILED = 3
RUN = "Run"
# What is under way when Ctrl-C is pressed has so many seconds to end.
MOST_FINISHING_S = 10.0


def _read_batch_size(text: str) -> int | None:
    """A number of sequences, None for auto."""
    if text == "auto":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--batch-size must be auto or a whole number from 1 on, not {text!r}")


def batch(
    prompts: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROMPTS",
            help=".txt, .jsonl, .csv, .tsv or .parquet, each also with .gz or .zst; - is standard input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Where the completions go: .jsonl, .csv or .parquet. Beside a table, OUT.jsonl keeps the records for "
            "--resume.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    input_format: Annotated[
        Literal["txt", "jsonl", "csv", "tsv", "parquet"] | None,
        typer.Option(
            metavar="FORMAT",
            help="What the files are, whatever their names: txt, jsonl, csv, tsv, parquet.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help=r"What stands between the prompts of a text file, as '\n---\n'; without it each line is one.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    prompt_field: Annotated[
        str, typer.Option(metavar="NAME", help="The column of the prompts.", rich_help_panel=options.INPUT)
    ] = "prompt",
    id_field: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The column of the ids. A row without one has file and row number for an id.",
            rich_help_panel=options.INPUT,
        ),
    ] = "id",
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help=r"Build each prompt from columns, as 'Title: {title}\n\n{prompt}'.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    model: options.ModelName = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    allow_pickle: options.AllowPickle = False,
    strategy: options.StrategySpec = None,
    presets: options.Presets = None,
    num_beams: options.NumBeams = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    epsilon_cutoff: options.EpsilonCutoff = None,
    eta_cutoff: options.EtaCutoff = None,
    temperature: options.Temperature = None,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
    bad_word: options.BadWord = None,
    logit_bias: options.LogitBias = None,
    length_penalty: options.LengthPenalty = None,
    seed: options.Seed = None,
    deterministic: options.Deterministic = False,
    max_new_tokens: options.MaxNewTokens = DEFAULT_NEW_TOKENS,
    num_return_sequences: options.NumReturnSequences = 1,
    stop: options.Stop = None,
    overflow: options.OnOverflow = "error",
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Most sequences at once. auto: as many as pay and the memory holds.",
            rich_help_panel=RUN,
        ),
    ] = "auto",
    on_error: Annotated[
        Literal["record", "stop"],
        typer.Option(
            metavar="HOW",
            help="A row that fails: record writes it with its error and goes on, stop ends the run.",
            rich_help_panel=RUN,
        ),
    ] = "record",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run ended.", rich_help_panel=RUN)
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="With --resume: do failed rows again.", rich_help_panel=RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where there is an output already.", rich_help_panel=RUN)
    ] = False,
    unordered: Annotated[
        bool,
        typer.Option(
            "--unordered",
            help="Leave the records as they were finished; without it they end up in the order of the input.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No progress, notices or summary on stderr.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
) -> None:
    r"""Continue every prompt of files, and write a file of completions.

    genlm batch prompts.txt -o completions.jsonl
    genlm batch rows.csv -o out.csv --template 'Title: {title}\n\n{text}' --seed 7
    genlm batch prompts.jsonl -o completions.jsonl --resume

    What is finished is in the file at once. An interrupted run goes on with --resume, and loses nothing.
    """
    notify = (lambda _: None) if quiet else notice
    flags = {
        "num_beams": num_beams,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "epsilon_cutoff": epsilon_cutoff,
        "eta_cutoff": eta_cutoff,
        "temperature": temperature,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "bad_words": bad_word or None,
        "logit_bias": logit_bias or None,
        "length_penalty": length_penalty,
    }
    chosen = choose_strategy(strategy, presets, flags, notify)
    stops = tuple(check_utf8(text, "a stop text") for text in stop or ())
    limits = Limits(max_new_tokens, num_return_sequences, stops, overflow)
    settings = Settings(chosen, draw_seed() if seed is None else seed, limits, deterministic)
    fields = Fields(prompt_field, id_field, None if template is None else Template(unescape(template)))
    size = _read_batch_size(batch_size)
    place = journal_path(output)
    _check_output(output, place, prompts, resume=resume, retry_errors=retry_errors, overwrite=overwrite)
    between = None if separator is None else unescape(separator)
    with (
        open_inputs(prompts, input_format, between) as files,
        open_journal(place) as journal,
        open_ledger() as ledger,
        Spinner(enabled=not quiet) as spinner,
    ):
        folder = find_model(model, revision=revision, allow_pickle=allow_pickle, notify=notify)
        spinner.say("reading the prompts")
        planned = Batch(
            files,
            fields,
            settings,
            journal,
            ledger,
            output,
            model={
                "name": folder.name,
                "revision": folder.revision,
                "dtype": None if dtype == "auto" else dtype,
            },
            has_seed=seed is not None,
            begins_anew=overwrite,
            retries=retry_errors,
            is_strict=on_error == "stop",
        )
        progress = BatchProgress(planned.counts, retries=retry_errors, enabled=not quiet)
        if planned.has_left:
            loaded = load_found(folder, device=device, dtype=dtype, allow_pickle=allow_pickle, spinner=spinner)
            planned.check_model(model_of(loaded.info))
            spinner.stop()
            _run(planned, loaded, size, progress, is_strict=on_error == "stop")
        spinner.say("putting the records in order")
        planned.finish(in_order=not unordered)
        failed = planned.counts.failed
    notify(progress.summary(output, failed))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _check_output(
    output: Path, journal: Path, prompts: Sequence[Path], *, resume: bool, retry_errors: bool, overwrite: bool
) -> None:
    """Raise an error where the output is one of the inputs, or is there already and is not to be touched."""
    if resume and overwrite:
        raise UsageError("--resume goes on and --overwrite begins anew: which is it?")
    if retry_errors and not resume:
        raise UsageError("--retry-errors needs --resume")
    for place in {output, journal}:
        if place.exists() and not place.is_file():
            raise OutputError(f"{place} is not a file that a batch can go on with")
        for prompt in prompts:
            if prompt != STDIN and place.exists() and prompt.exists() and place.samefile(prompt):
                raise UsageError(f"the output {place} is one of the inputs")
    there = [place for place in (output, journal) if place.exists() and place.stat().st_size > 0]
    if there and not (resume or overwrite):
        raise OutputError(f"{there[0]} is there already", hint="--resume goes on with it, --overwrite begins anew")
    if resume and there == [output] and journal != output:
        raise OutputError(f"{output} is there, but not {journal}, which --resume needs", hint="--overwrite begins anew")


def _run(planned: Batch, model: Model, size: int | None, progress: BatchProgress, *, is_strict: bool) -> None:
    """Do what is left, and keep every record as soon as it is there.

    Raises:
        KeyboardInterrupt: where Ctrl-C has left something undone.
        InputError: a row that has failed, where it `is_strict`.
    """
    try:
        with progress, graceful_interrupt(progress.say, MOST_FINISHING_S) as finishing:
            for record in run_jobs(model, planned.jobs(), batch_size=size, is_stopping=finishing):
                planned.add(record, as_line(record))
                progress.show(record)
                if is_strict and record["error"] is not None:
                    raise InputError(progress.describe(record["error"]), hint="--resume goes on with the others")
        if finishing.pressed and planned.has_left:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        progress.say(f"{progress.summary(planned.output, planned.counts.failed)}; --resume goes on with the others")
        raise
