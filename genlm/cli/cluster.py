"""`genlm batch --engine ray`, and `--merge`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from genlm.cli.batch import MOST_FINISHING_S, SOME_FAILED
from genlm.cli.signals import Finishing, graceful_interrupt
from genlm.errors import OutputError, UsageError
from genlm.formats.remote import RemoteFile, is_remote
from genlm.formats.rows import STDIN
from genlm.tasks.cluster.plan import Plan
from genlm.tasks.cluster.prepare import check_output
from genlm.tasks.cluster.session import CLIENT, Running, open_session, silenced
from genlm.views.batch import ClusterProgress
from genlm.views.spinner import Spinner

# Workers hear of a stop within a second.
HEARD_S = 2.0


@dataclass(frozen=True)
class Cluster:
    """Where a batch runs, and on how many workers; None means automatic."""

    address: str | None
    workers: int | None
    cpus: float | None
    gpus: float | None
    dashboard: bool
    verbose: bool

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be 1 or more, not {self.workers}")
        for name, value in (("--cpus-per-worker", self.cpus), ("--gpus-per-worker", self.gpus)):
            if value is not None and not (value > 0 or (value == 0 and name.startswith("--gpus"))):
                raise UsageError(f"{name} must be more than 0, not {value:g}")
        if self.dashboard and self.address is not None:
            raise UsageError("--dashboard is for a Ray on this machine; a cluster has its own or none")

    def check_inputs(self, paths: Sequence[Path | RemoteFile]) -> None:
        """Raise UsageError if other machines cannot read one of the inputs."""
        if self.address is not None and STDIN in paths:
            raise UsageError("standard input is on this machine only: give a cluster files that all its machines see")


def run_on_cluster(plan: Plan, cluster: Cluster, output: str, notify: Callable[[str], None], *, quiet: bool) -> None:
    """Run a batch on a cluster and show a summary; `output` is its folder as the user wrote it.

    Exit with code 3 if rows have an error.
    """
    if not (cluster.address or "").startswith(CLIENT):
        check_output(plan, plan.folder)
    progress = ClusterProgress(enabled=not quiet)
    with nullcontext() if cluster.verbose else silenced(), Spinner(enabled=not quiet) as spinner:
        spinner.say("starting Ray" if cluster.address is None else f"connecting to {cluster.address}")
        with open_session(cluster.address, dashboard=cluster.dashboard, verbose=cluster.verbose) as session:
            plan = replace(plan, resources=session.resources(cluster.workers, cluster.cpus, cluster.gpus))
            spinner.say("reading the prompts")
            with session.run(plan) as running:
                _follow(running, progress, spinner, output)
                outcome = running.outcome()
                progress.see(running.look())
    if outcome.error is not None:
        raise outcome.error
    notify(progress.summary(output, outcome.failed))
    if outcome.failed:
        raise typer.Exit(SOME_FAILED)


def _follow(running: Running, progress: ClusterProgress, spinner: Spinner, output: str) -> None:
    """Show the progress until the batch ends. Raise KeyboardInterrupt after Ctrl-C, SystemExit after SIGTERM."""
    try:
        with ExitStack() as display, graceful_interrupt(progress.say, MOST_FINISHING_S) as finishing:
            is_shown = False
            while not running.wait():
                state = running.look()
                if not is_shown and (state.rows is not None or finishing.pressed):
                    spinner.stop()
                    display.enter_context(progress)
                    is_shown = True
                if is_shown:
                    progress.see(state)
                _let_finish(running, finishing)
    except (KeyboardInterrupt, SystemExit):
        spinner.stop()
        if progress.total:
            progress.say(f"{progress.summary(output, progress.failed)}; --resume goes on with the others")
        raise
    finally:
        spinner.stop()


def _let_finish(running: Running, finishing: Finishing) -> None:
    """After Ctrl-C, let the workers finish their running sequences, then raise the ending."""
    if not finishing():
        return
    running.stop()
    told = time.monotonic()
    while finishing() and (running.look().busy or time.monotonic() - told < HEARD_S):
        if running.wait():
            break
    raise finishing.ending


def merge_to(place: str, output: Path, notify: Callable[[str], None], *, overwrite: bool) -> None:
    """Merge the parts in a folder into one file."""
    from genlm.tasks.cluster.merge import merge_parts

    if output.exists() and not overwrite:
        raise OutputError(f"{output} is there already", hint="--overwrite writes it anew")
    manifest = merge_parts(place, output)
    failed = f", {manifest.failed:,} of them with an error" if manifest.failed else ""
    notify(f"{manifest.total:,} records are in {output}{failed}")


def read_output(text: str) -> str:
    """Return the folder of the parts as every machine reads it: a URI unchanged, a path made absolute.

    Raises:
        UsageError: the name is that of a file.
    """
    if is_remote(text):
        return text.rstrip("/")
    path = Path(text)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".parquet") and not path.is_dir():
        raise UsageError(
            f"with --engine ray the output is a folder of part files, not a file such as {path.name}",
            hint=f"-o {path.with_suffix('')}, and then: genlm batch --merge {path.with_suffix('')} -o {path}",
        )
    return str(path.absolute())
