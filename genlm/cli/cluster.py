"""`genlm batch --runner ray`, and `genlm merge` for the parts that it writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genlm.cli import options
from genlm.cli.signals import Finishing, graceful_interrupt
from genlm.errors import OutputError, UsageError
from genlm.formats.files import STDIN, RemoteFile, is_remote
from genlm.tasks.batch.run import FINISH_WITHIN_S, Plan
from genlm.views.batch import ClusterProgress
from genlm.views.progress import Spinner
from genlm.views.terminal import notices

if TYPE_CHECKING:
    from genlm.tasks.cluster.session import ClusterRun

# Workers notice a stop within a second.
STOP_HEARD_S = 2.0
cluster_option = options.panel("Cluster")


@dataclass(frozen=True)
class ClusterOptions:
    """Where a batch runs, and on how many workers; None means automatic."""

    runner: Annotated[
        Literal["local", "ray"],
        cluster_option(
            metavar="RUNNER", help="local: this process. ray: workers on this machine or on a cluster, with Ray Data."
        ),
    ] = "local"
    address: Annotated[
        str | None,
        cluster_option(
            metavar="ADDRESS",
            help="The Ray cluster: auto to find it, or ray://HOST:PORT, or HOST:PORT. Default: start a Ray on this "
            "machine that ends with the command.",
        ),
    ] = None
    workers: Annotated[
        int | None,
        cluster_option(
            metavar="N", help="Number of workers, each with its own model. Default: one per GPU, else one per machine."
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        cluster_option(metavar="F", help="GPUs per worker; at 0.5, two share one. Default: 1 if there are any."),
    ] = None
    cpus_per_worker: Annotated[
        float | None, cluster_option(metavar="F", help="CPUs per worker. Default: 1 with a GPU, else an equal share.")
    ] = None
    dashboard: Annotated[
        bool,
        cluster_option("--dashboard", help="Start Ray's dashboard on http://localhost:8265. It must be installed."),
    ] = False
    verbose: Annotated[bool, cluster_option("--verbose", help="Show the output of Ray and the workers.")] = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be 1 or more, not {self.workers}")
        cpus, gpus = self.cpus_per_worker, self.gpus_per_worker
        if cpus is not None and not cpus > 0:
            raise UsageError(f"--cpus-per-worker must be more than 0, not {cpus:g}")
        if gpus is not None and not gpus >= 0:
            raise UsageError(f"--gpus-per-worker must be 0 or more, not {gpus:g}")
        if self.dashboard and self.address is not None:
            raise UsageError("--dashboard is for a Ray on this machine; a cluster has its own or none")

    @classmethod
    def needing_ray(cls) -> set[str]:
        """Return the options that need `--runner ray`."""
        return {each.name for each in fields(cls)} - {"runner"}

    def check(self, inputs: Sequence[Path | RemoteFile], output: str) -> None:
        """Raise UsageError if a batch with these files cannot run on Ray."""
        if self.address is not None and STDIN in inputs:
            raise UsageError("standard input is only on this machine: give a cluster files that all its machines see")
        path = Path(output)
        names_file = not is_remote(output) and path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".parquet")
        if names_file and not path.is_dir():
            raise UsageError(
                f"with --runner ray the output is a folder of part files, not a file such as {path.name}",
                hint=f"-o {path.with_suffix('')}, and then: genlm merge {path.with_suffix('')} -o {path}",
            )
        from genlm.tasks.cluster.session import check_ray

        check_ray()


def run_on_cluster(plan: Plan, cluster: ClusterOptions, notify: Callable[[str], None], *, quiet: bool) -> int:
    """Run a batch on a cluster. Return how many records have an error."""
    from genlm.formats.folder import open_folder
    from genlm.tasks.cluster.parts import check_output
    from genlm.tasks.cluster.session import CLIENT, choose_resources, connected, silenced, start_run

    output = plan.output
    plan = plan.with_absolute_paths()
    if not (cluster.address or "").startswith(CLIENT):
        check_output(plan, open_folder(plan.output))
    progress = ClusterProgress(enabled=not quiet)
    with nullcontext() if cluster.verbose else silenced(), Spinner(enabled=not quiet) as spinner:
        spinner.say("starting Ray" if cluster.address is None else f"connecting to {cluster.address}")
        with connected(cluster.address, dashboard=cluster.dashboard, verbose=cluster.verbose):
            resources = choose_resources(
                cluster.address, cluster.workers, cluster.cpus_per_worker, cluster.gpus_per_worker
            )
            spinner.say("reading the prompts")
            with start_run(plan, resources) as run:
                _follow(run, progress, spinner, output)
                outcome = run.outcome()
                progress.see(run.look())
    if outcome.error is not None:
        raise outcome.error
    notify(progress.summary(output, outcome.failed))
    return outcome.failed


def _follow(run: ClusterRun, progress: ClusterProgress, spinner: Spinner, output: str) -> None:
    """Show the progress until the batch ends. Raise KeyboardInterrupt after Ctrl-C, SystemExit after SIGTERM."""
    try:
        with ExitStack() as display, graceful_interrupt(progress.say, FINISH_WITHIN_S) as finishing:
            is_shown = False
            while not run.wait():
                state = run.look()
                if not is_shown and (state.rows is not None or finishing.pressed):
                    spinner.stop()
                    display.enter_context(progress)
                    is_shown = True
                if is_shown:
                    progress.see(state)
                _let_finish(run, finishing)
    except (KeyboardInterrupt, SystemExit):
        spinner.stop()
        if progress.total:
            progress.say(f"{progress.summary(output, progress.failed)}; --resume continues")
        raise
    finally:
        spinner.stop()


def _let_finish(run: ClusterRun, finishing: Finishing) -> None:
    """After Ctrl-C, wait until the workers have finished and kept the running prompts. Then raise the ending."""
    if not finishing():
        return
    run.stop()
    stopped = time.monotonic()
    while finishing() and (run.look().busy or time.monotonic() - stopped < STOP_HEARD_S):
        if run.wait():
            break
    raise finishing.ending


def merge(
    *,
    parts: Annotated[str, typer.Argument(metavar="PARTS", help="The folder: a path, or an s3:// or gs:// address.")],
    output: Annotated[
        Path,
        options.output_option("--output", "-o", metavar="FILE", help="The merged file: .jsonl, .csv or .parquet."),
    ],
    csv_safe: options.CsvSafe = False,
    overwrite: Annotated[bool, options.output_option("--overwrite", help="Replace the file if it exists.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge the parts that genlm batch --runner ray wrote into one file.

    genlm merge parts -o completions.jsonl

    The records are in the order of the input.
    """
    from genlm.tasks.cluster.parts import merge_parts

    if output.exists() and not overwrite:
        raise OutputError(f"{output} already exists", hint="--overwrite replaces it")
    manifest = merge_parts(parts, output, csv_safe=csv_safe)
    failed = f", {manifest.failed:,} of them with an error" if manifest.failed else ""
    notices(quiet=quiet)(f"{manifest.total:,} records are in {output}{failed}")
