"""`genlm batch`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genlm.cli import options
from genlm.cli.command import check_alone, grouped
from genlm.cli.options import ModelOptions
from genlm.cli.signals import graceful_interrupt
from genlm.cli.strategies import LengthOptions, StrategyOptions
from genlm.decoding.request import draw_seed
from genlm.errors import InputError, OutputError, UsageError
from genlm.formats.journal import open_journal
from genlm.formats.remote import RemoteFile, read_place
from genlm.formats.rows import STDIN, open_inputs
from genlm.formats.template import Template, unescape
from genlm.model.fingerprint import fingerprinted
from genlm.records.serialize import as_line
from genlm.tasks.batch.jobs import Fields, Settings
from genlm.tasks.batch.ledger import open_ledger
from genlm.tasks.batch.run import Batch, journal_path
from genlm.tasks.batch.work import model_of, run_jobs
from genlm.views.batch import BatchProgress
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices

if TYPE_CHECKING:
    from genlm.model.load import Model

SOME_FAILED = 3
run_option, cluster_option = options.panel("Run"), options.panel("Cluster")
CLUSTER_OPTIONS = {"address", "workers", "gpus_per_worker", "cpus_per_worker", "dashboard", "verbose"}
# What is under way when Ctrl-C is pressed has so many seconds to end.
MOST_FINISHING_S = 10.0


def _read_batch_size(text: str) -> int | None:
    """A number of sequences, None for auto."""
    if text == "auto":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--batch-size must be auto or a whole number from 1 on, not {text!r}")


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
            help="Where the completions go: .jsonl, .csv or .parquet; with --engine ray a folder. Beside a table, "
            "OUT.jsonl keeps the records for --resume.",
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPTS",
            help=".txt, .jsonl, .csv, .tsv or .parquet, each also with .gz or .zst; - is standard input. "
            "s3:// and gs:// paths are files too.",
        ),
    ] = None,
    input_format: Annotated[
        Literal["txt", "jsonl", "csv", "tsv", "parquet"] | None,
        options.input_option(
            metavar="FORMAT", help="What the files are, whatever their names: txt, jsonl, csv, tsv, parquet."
        ),
    ] = None,
    separator: Annotated[
        str | None,
        options.input_option(
            metavar="TEXT",
            help=r"What stands between the prompts of a text file, as '\n---\n'; without it each line is one.",
        ),
    ] = None,
    prompt_field: Annotated[str, options.input_option(metavar="NAME", help="The column of the prompts.")] = "prompt",
    id_field: Annotated[
        str,
        options.input_option(
            metavar="NAME", help="The column of the ids. A row without one has file and row number for an id."
        ),
    ] = "id",
    template: Annotated[
        str | None,
        options.input_option(metavar="TEXT", help=r"Build each prompt from columns, as 'Title: {title}\n\n{prompt}'."),
    ] = None,
    model: ModelOptions,
    strategy: StrategyOptions,
    seed: options.Seed = None,
    deterministic: options.Deterministic = False,
    length: LengthOptions,
    batch_size: Annotated[
        str, run_option(metavar="auto|N", help="Most sequences at once. auto: as many as pay and the memory holds.")
    ] = "auto",
    on_error: Annotated[
        Literal["record", "stop"],
        run_option(
            metavar="HOW", help="A row that fails: record writes it with its error and goes on, stop ends the run."
        ),
    ] = "record",
    resume: Annotated[bool, run_option("--resume", help="Go on where an earlier run ended.")] = False,
    retry_errors: Annotated[bool, run_option("--retry-errors", help="With --resume: do failed rows again.")] = False,
    overwrite: Annotated[bool, run_option("--overwrite", help="Begin anew where there is an output already.")] = False,
    engine: Annotated[
        Literal["local", "ray"],
        cluster_option(
            metavar="ENGINE", help="local: this process. ray: workers on this machine or on a cluster, by Ray Data."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        cluster_option(
            metavar="ADDRESS",
            help="The Ray cluster: auto finds it, ray://HOST:PORT or HOST:PORT names it. Without it a Ray on this "
            "machine starts and ends with the command.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        cluster_option(
            metavar="N", help="How many models run. Without it one for each GPU, or one for each machine without any."
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None, cluster_option(metavar="F", help="0.5: two workers share a GPU. Without it 1, if any.")
    ] = None,
    cpus_per_worker: Annotated[
        float | None,
        cluster_option(
            metavar="F", help="How many CPUs each takes. Without it 1 beside a GPU, else a fair share of all."
        ),
    ] = None,
    dashboard: Annotated[
        bool, cluster_option("--dashboard", help="Ray's dashboard on http://localhost:8265; needs Ray's extra default.")
    ] = False,
    verbose: Annotated[bool, cluster_option("--verbose", help="Show what Ray and the workers say.")] = False,
    merge: Annotated[
        str | None,
        cluster_option(
            metavar="FOLDER", help="Write the parts of an --engine ray run to one file, -o, in the order of the input."
        ),
    ] = None,
    unordered: Annotated[
        bool,
        options.output_option(
            "--unordered",
            help="Leave the records as they were finished; without it they end up in the order of the input.",
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    r"""Continue every prompt of files, and write a file of completions.

    genlm batch prompts.txt -o completions.jsonl
    genlm batch rows.csv -o out.csv --template 'Title: {title}\n\n{text}' --seed 7
    genlm batch prompts.jsonl -o completions.jsonl --resume
    genlm batch prompts.jsonl -o parts --engine ray --address auto
    genlm batch --merge parts -o completions.jsonl

    What is finished is in the file at once. An interrupted run goes on with --resume, and loses nothing.
    """
    notify = notices(quiet=quiet)
    if merge is not None:
        from genlm.cli.cluster import merge_to

        check_alone(context, "--merge", only={"merge", "output", "overwrite", "quiet"})
        merge_to(merge, Path(output), notify, overwrite=overwrite)
        return
    if not prompts:
        raise UsageError("no files of prompts are given")
    paths = [read_place(prompt) for prompt in prompts]
    chosen = strategy.choose(notify)
    limits = length.limits()
    settings = Settings(chosen, draw_seed() if seed is None else seed, limits, deterministic)
    fields = Fields(prompt_field, id_field, None if template is None else Template(unescape(template)))
    size = _read_batch_size(batch_size)
    between = None if separator is None else unescape(separator)
    _check_choices(resume=resume, retry_errors=retry_errors, overwrite=overwrite)
    if engine == "ray":
        from genlm.cli.cluster import Cluster, read_output, run_on_cluster
        from genlm.tasks.cluster.plan import ModelChoice, make_plan
        from genlm.tasks.cluster.session import check_ray

        check_alone(context, "--engine ray", without={"unordered"})
        cluster = Cluster(address, workers, cpus_per_worker, gpus_per_worker, dashboard, verbose)
        cluster.check_inputs(paths)
        place = read_output(output)
        check_ray()
        with open_inputs(paths, input_format, between) as files:
            found = model.find(notify)
            plan = make_plan(
                files,
                fields,
                settings,
                ModelChoice(found, model.device, model.dtype, model.allow_pickle),
                place,
                as_line,
                has_seed=seed is not None,
                batch_size=size,
                resumes=resume,
                overwrites=overwrite,
                retries=retry_errors,
                is_strict=on_error == "stop",
            )
            run_on_cluster(plan, cluster, output, notify, quiet=quiet)
        return
    check_alone(context, "--engine local", without=CLUSTER_OPTIONS)
    target = Path(output)
    journal_file = journal_path(target)
    _check_output(target, journal_file, paths, resume=resume, overwrite=overwrite)
    with (
        open_inputs(paths, input_format, between) as files,
        open_journal(journal_file) as journal,
        open_ledger() as ledger,
        Spinner(enabled=not quiet) as spinner,
    ):
        folder = fingerprinted(model.find(notify), allow_pickle=model.allow_pickle)
        spinner.say("reading the prompts")
        planned = Batch(
            files,
            fields,
            settings,
            journal,
            ledger,
            target,
            model={
                "name": folder.name,
                "revision": folder.revision,
                "fingerprint": folder.fingerprint,
                "dtype": None if model.dtype == "auto" else model.dtype,
            },
            has_seed=seed is not None,
            begins_anew=overwrite,
            retries=retry_errors,
            is_strict=on_error == "stop",
        )
        progress = BatchProgress(planned.counts, retries=retry_errors, enabled=not quiet)
        if planned.has_left:
            loaded = model.load_found(folder, spinner)
            planned.check_model(model_of(loaded))
            spinner.stop()
            _run(planned, loaded, size, progress, is_strict=on_error == "stop")
        spinner.say("putting the records in order")
        planned.finish(in_order=not unordered)
        failed = planned.counts.failed
    notify(progress.summary(output, failed))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _check_choices(*, resume: bool, retry_errors: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UsageError("--resume goes on and --overwrite begins anew: which is it?")
    if retry_errors and not resume:
        raise UsageError("--retry-errors needs --resume")


def _check_output(
    output: Path, journal: Path, prompts: Sequence[Path | RemoteFile], *, resume: bool, overwrite: bool
) -> None:
    """Raise an error where the output is one of the inputs, or is there already and is not to be touched."""
    for place in {output, journal}:
        if place.exists() and not place.is_file():
            raise OutputError(f"{place} is not a file that a batch can go on with")
        for prompt in prompts:
            is_here = isinstance(prompt, Path) and prompt != STDIN and prompt.exists()
            if is_here and place.exists() and place.samefile(str(prompt)):
                raise UsageError(f"the output {place} is one of the inputs")
    there = [place for place in (output, journal) if place.exists() and place.stat().st_size > 0]
    if there and not (resume or overwrite):
        raise OutputError(f"{there[0]} is there already", hint="--resume goes on with it, --overwrite begins anew")
    if resume and there == [output] and journal != output:
        raise OutputError(f"{output} is there, but not {journal}, which --resume needs", hint="--overwrite begins anew")


def _run(planned: Batch, model: Model, size: int | None, progress: BatchProgress, *, is_strict: bool) -> None:
    """Do what is left, and keep every record as soon as it is there.

    Raises:
        KeyboardInterrupt: where Ctrl-C has left something undone; SystemExit where SIGTERM has.
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
            raise finishing.ending
    except (KeyboardInterrupt, SystemExit):
        progress.say(f"{progress.summary(planned.output, planned.counts.failed)}; --resume goes on with the others")
        raise
