"""`genlm batch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from genlm.cli import options
from genlm.cli.cluster import ClusterOptions, run_on_cluster
from genlm.cli.command import check_alone, grouped
from genlm.cli.options import ModelOptions
from genlm.cli.signals import graceful_interrupt, insistent_interrupts
from genlm.cli.strategies import LengthOptions, StrategyOptions
from genlm.decoding.request import draw_seed
from genlm.errors import InputError, OutputError, UsageError
from genlm.formats.files import STDIN, RemoteFile, read_place
from genlm.formats.journal import open_journal
from genlm.formats.rows import open_inputs
from genlm.model.fingerprint import fingerprinted
from genlm.tasks.batch.jobs import BatchSettings, Columns, Template, model_of, run_jobs, unescape
from genlm.tasks.batch.ledger import open_ledger
from genlm.tasks.batch.run import FINISH_WITHIN_S, BatchRun, ModelChoice, Plan, journal_path
from genlm.tasks.batch.tables import is_table
from genlm.views.batch import BatchProgress
from genlm.views.progress import Spinner
from genlm.views.terminal import notices

SOME_FAILED = 3
run_option = options.panel("Run")


@dataclass(frozen=True)
class InputOptions:
    """How to read prompts from files."""

    input_format: Annotated[
        Literal["txt", "jsonl", "csv", "tsv", "parquet"] | None,
        options.input_option(
            metavar="FORMAT", help="Format of the files, whatever their names: txt, jsonl, csv, tsv, parquet."
        ),
    ] = None
    separator: Annotated[
        str | None,
        options.input_option(
            metavar="TEXT",
            help=r"Text between the prompts of a text file, such as '\n---\n'. Default: every line is a prompt.",
        ),
    ] = None
    prompt_field: Annotated[str, options.input_option(metavar="NAME", help="The column of the prompts.")] = "prompt"
    id_field: Annotated[
        str,
        options.input_option(metavar="NAME", help="The column of the ids. A row without an id gets FILE:ROW."),
    ] = "id"
    template: Annotated[
        str | None,
        options.input_option(
            metavar="TEXT", help=r"Build each prompt from columns, as in 'Title: {title}\n\n{prompt}'."
        ),
    ] = None

    @property
    def between(self) -> str | None:
        """The separator, with its escapes replaced."""
        return None if self.separator is None else unescape(self.separator)

    @property
    def columns(self) -> Columns:
        """The columns of the prompt and the id."""
        template = None if self.template is None else Template(unescape(self.template))
        return Columns(self.prompt_field, self.id_field, template)


@dataclass(frozen=True)
class RunOptions:
    """How a batch runs, and what happens to an output that exists."""

    batch_size: Annotated[
        str, run_option(metavar="auto|N", help="Most sequences at once. auto: as many as pay off and fit in memory.")
    ] = "auto"
    on_error: Annotated[
        Literal["record", "stop"],
        run_option(metavar="HOW", help="If a row has an error: record writes it to the output, stop ends the run."),
    ] = "record"
    resume: Annotated[bool, run_option("--resume", help="Continue an interrupted run.")] = False
    retry_errors: Annotated[bool, run_option("--retry-errors", help="With --resume: repeat rows with an error.")] = (
        False
    )
    redo_changed: Annotated[
        bool, run_option("--redo-changed", help="With --resume: repeat rows whose prompt has changed.")
    ] = False
    overwrite: Annotated[bool, run_option("--overwrite", help="Start over if the output exists.")] = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite cannot be combined")
        if self.retry_errors and not self.resume:
            raise UsageError("--retry-errors needs --resume")
        if self.redo_changed and not self.resume:
            raise UsageError("--redo-changed needs --resume")

    @property
    def most_sequences(self) -> int | None:
        """The batch size as a number, or None for auto."""
        if self.batch_size == "auto":
            return None
        if self.batch_size.isdecimal() and int(self.batch_size) > 0:
            return int(self.batch_size)
        raise UsageError(f"--batch-size must be auto or a whole number from 1 up, not {self.batch_size!r}")


@grouped
def batch(
    context: typer.Context,
    *,
    output: Annotated[
        str,
        options.output_option(
            "--output",
            "-o",
            metavar="OUT",
            help="File for the completions: .jsonl, .csv or .parquet; with --runner ray, a folder. For a table, "
            "OUT.jsonl beside it keeps the records for --resume.",
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPTS",
            help="Files: .txt, .jsonl, .csv, .tsv or .parquet, each also with .gz or .zst; - is standard input. "
            "s3:// and gs:// paths work too.",
        ),
    ],
    rows: InputOptions,
    model: ModelOptions,
    strategy: StrategyOptions,
    seed: options.Seed = None,
    deterministic: options.Deterministic = False,
    length: LengthOptions,
    run: RunOptions,
    cluster: ClusterOptions,
    unordered: Annotated[
        bool,
        options.output_option("--unordered", help="Leave the records in the order in which they finish."),
    ] = False,
    csv_safe: options.CsvSafe = False,
    quiet: options.Quiet = False,
) -> None:
    r"""Continue every prompt in files and write the completions to a file.

    genlm batch prompts.txt -o completions.jsonl
    genlm batch rows.csv -o out.csv --template 'Title: {title}\n\n{text}' --seed 7
    genlm batch prompts.jsonl -o completions.jsonl --resume
    genlm batch prompts.jsonl -o parts --runner ray --address auto

    Every record is written as soon as it is finished. After an interruption, --resume continues without losing any.
    """
    notify = notices(quiet=quiet)
    paths = [read_place(prompt) for prompt in prompts]
    chosen = strategy.choose(notify)
    settings = BatchSettings(chosen, draw_seed() if seed is None else seed, length.limits(), deterministic)
    columns, most_sequences = rows.columns, run.most_sequences
    if cluster.runner == "ray":
        check_alone(context, "--runner ray", without={"unordered", "csv_safe"})
        cluster.check(paths, output)
    else:
        check_alone(context, "--runner local", without=ClusterOptions.needing_ray())
        _check_output(Path(output), paths, run, csv_safe=csv_safe)
    with open_inputs(paths, rows.input_format, rows.between) as files:
        folder = fingerprinted(model.find(notify), allow_pickle=model.allow_pickle)
        plan = Plan(
            tuple(files),
            columns,
            settings,
            ModelChoice(folder, model.device, model.dtype, model.allow_pickle),
            output,
            has_seed=seed is not None,
            batch_size=most_sequences,
            resume=run.resume,
            overwrite=run.overwrite,
            retry_errors=run.retry_errors,
            redo_changed=run.redo_changed,
            stop_on_error=run.on_error == "stop",
            csv_safe=csv_safe,
        )
        if cluster.runner == "ray":
            failed = run_on_cluster(plan, cluster, notify, quiet=quiet)
        else:
            failed = run_locally(plan, notify, in_order=not unordered, quiet=quiet)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _check_output(output: Path, prompts: Sequence[Path | RemoteFile], run: RunOptions, *, csv_safe: bool) -> None:
    """Raise UsageError if the output is one of the inputs, OutputError if it exists and must not be touched."""
    is_table(output, safe=csv_safe)
    journal = journal_path(output)
    for place in {output, journal}:
        if place.exists() and not place.is_file():
            raise OutputError(f"{place} is not a regular file, which a batch needs for its output")
        for prompt in prompts:
            is_here = isinstance(prompt, Path) and prompt != STDIN and prompt.exists()
            if is_here and place.exists() and place.samefile(str(prompt)):
                raise UsageError(f"the output {place} is one of the inputs")
    existing = [place for place in (output, journal) if place.exists() and place.stat().st_size > 0]
    if existing and not (run.resume or run.overwrite):
        raise OutputError(f"{existing[0]} already exists", code="output-exists")
    if run.resume and existing == [output] and journal != output:
        raise OutputError(f"{output} exists, but not {journal}, which --resume needs", code="output-not-resumable")


def run_locally(plan: Plan, notify: Callable[[str], None], *, in_order: bool, quiet: bool) -> int:
    """Run a batch in this process. Return how many records have an error."""
    with (
        open_journal(journal_path(Path(plan.output))) as journal,
        open_ledger() as ledger,
        Spinner(enabled=not quiet) as spinner,
    ):
        spinner.say("reading the prompts")
        run = BatchRun(plan, journal, ledger)
        if found := run.notices():
            spinner.stop()
            for line in found:
                notify(line)
        progress = BatchProgress(run.counts, enabled=not quiet)
        if run.has_left:
            _make_records(run, progress, spinner)
        spinner.say("writing the output")
        run.finish(in_order=in_order)
        failed = run.counts.failed
    notify(progress.summary(plan.output, failed))
    return failed


def _make_records(run: BatchRun, progress: BatchProgress, spinner: Spinner) -> None:
    """Make the records that are left, and write each as soon as it is finished.

    Raises:
        KeyboardInterrupt: Ctrl-C, if anything is left; SystemExit for SIGTERM.
        InputError: a row with an error, if the plan stops on errors.
    """
    plan = run.plan
    with insistent_interrupts():
        spinner.say(f"loading {plan.model.folder.name}")
        model = plan.model.load()
    run.check_model(model_of(model))
    spinner.stop()
    try:
        with progress, graceful_interrupt(progress.say, FINISH_WITHIN_S) as finishing:
            for record in run_jobs(model, run.jobs(), batch_size=plan.batch_size, is_stopping=finishing):
                run.add(record)
                progress.show(record)
                if plan.stop_on_error and record.error is not None:
                    raise InputError(str(record.error), code="row-failed")
        if finishing.pressed and run.has_left:
            raise finishing.ending
    except (KeyboardInterrupt, SystemExit):
        progress.say(f"{progress.summary(plan.output, run.counts.failed)}; --resume continues")
        raise
