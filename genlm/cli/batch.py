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
from genlm.tasks.batch.jobs import Fields, Settings
from genlm.tasks.batch.ledger import open_ledger
from genlm.tasks.batch.run import Batch, journal_path
from genlm.tasks.batch.work import model_of, run_jobs
from genlm.views.as_json import as_line
from genlm.views.batch import BatchProgress
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices

if TYPE_CHECKING:
    from genlm.model.load import Model

SOME_FAILED = 3
run_option, cluster_option = options.panel("Run"), options.panel("Cluster")
CLUSTER_OPTIONS = {"address", "workers", "gpus_per_worker", "cpus_per_worker", "dashboard", "verbose"}
# After Ctrl-C, running sequences have this long to finish.
MOST_FINISHING_S = 10.0


def _read_batch_size(text: str) -> int | None:
    """Return the number of sequences, or None for auto."""
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
            help="Where the completions go: .jsonl, .csv or .parquet; with --engine ray a folder. For a table, "
            "OUT.jsonl beside it keeps the records for --resume.",
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPTS",
            help="Files: .txt, .jsonl, .csv, .tsv or .parquet, each also with .gz or .zst; - is standard input. "
            "s3:// and gs:// paths work too.",
        ),
    ] = None,
    input_format: Annotated[
        Literal["txt", "jsonl", "csv", "tsv", "parquet"] | None,
        options.input_option(
            metavar="FORMAT", help="Format of the files, whatever their names: txt, jsonl, csv, tsv, parquet."
        ),
    ] = None,
    separator: Annotated[
        str | None,
        options.input_option(
            metavar="TEXT",
            help=r"Text between the prompts of a text file, such as '\n---\n'. Default: every line is a prompt.",
        ),
    ] = None,
    prompt_field: Annotated[str, options.input_option(metavar="NAME", help="The column of the prompts.")] = "prompt",
    id_field: Annotated[
        str,
        options.input_option(metavar="NAME", help="The column of the ids. A row without an id gets FILE:ROW."),
    ] = "id",
    template: Annotated[
        str | None,
        options.input_option(
            metavar="TEXT", help=r"Build each prompt from columns, as in 'Title: {title}\n\n{prompt}'."
        ),
    ] = None,
    model: ModelOptions,
    strategy: StrategyOptions,
    seed: options.Seed = None,
    deterministic: options.Deterministic = False,
    length: LengthOptions,
    batch_size: Annotated[
        str, run_option(metavar="auto|N", help="Most sequences at once. auto: as many as pay off and fit in memory.")
    ] = "auto",
    on_error: Annotated[
        Literal["record", "stop"],
        run_option(
            metavar="HOW",
            help="If a row has an error: record writes it to the output and continues, stop ends the run.",
        ),
    ] = "record",
    resume: Annotated[bool, run_option("--resume", help="Continue an interrupted run.")] = False,
    retry_errors: Annotated[
        bool, run_option("--retry-errors", help="With --resume: repeat rows with an error.")
    ] = False,
    overwrite: Annotated[bool, run_option("--overwrite", help="Start over if the output exists.")] = False,
    engine: Annotated[
        Literal["local", "ray"],
        cluster_option(
            metavar="ENGINE", help="local: this process. ray: workers on this machine or on a cluster, with Ray Data."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        cluster_option(
            metavar="ADDRESS",
            help="The Ray cluster: auto finds it, ray://HOST:PORT or HOST:PORT names it. Default: a Ray on this "
            "machine that ends with the command.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        cluster_option(
            metavar="N", help="Number of workers, each with its own model. Default: one per GPU, else one per machine."
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None, cluster_option(metavar="F", help="0.5: two workers share a GPU. Default: 1 if there are GPUs.")
    ] = None,
    cpus_per_worker: Annotated[
        float | None,
        cluster_option(
            metavar="F", help="CPUs of each worker. Default: 1 beside a GPU, else an equal share of all CPUs."
        ),
    ] = None,
    dashboard: Annotated[
        bool, cluster_option("--dashboard", help="Ray's dashboard on http://localhost:8265; needs Ray's default extra.")
    ] = False,
    verbose: Annotated[bool, cluster_option("--verbose", help="Show the output of Ray and the workers.")] = False,
    merge: Annotated[
        str | None,
        cluster_option(
            metavar="FOLDER",
            help="Merge the parts in FOLDER, written by --engine ray, into the file -o, in the order of the input.",
        ),
    ] = None,
    unordered: Annotated[
        bool,
        options.output_option(
            "--unordered",
            help="Leave the records in the order they finish, not that of the input.",
        ),
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    r"""Continue every prompt in files and write the completions to a file.

    genlm batch prompts.txt -o completions.jsonl
    genlm batch rows.csv -o out.csv --template 'Title: {title}\n\n{text}' --seed 7
    genlm batch prompts.jsonl -o completions.jsonl --resume
    genlm batch prompts.jsonl -o parts --engine ray --address auto
    genlm batch --merge parts -o completions.jsonl

    Every record is written as soon as it is finished. After an interruption, --resume continues without losing any.
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
    """Raise UsageError if the output is one of the inputs, OutputError if it exists and must not be touched."""
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
    """Make the records that are left, and write each as soon as it is finished.

    Raises:
        KeyboardInterrupt: Ctrl-C, if anything is left; SystemExit for SIGTERM.
        InputError: a row has an error, and `is_strict`.
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
