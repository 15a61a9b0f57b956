"""The application: its commands, and the one place that catches errors."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import traceback
import warnings
from typing import Annotated

import typer

from genlm.cli.command import LazyGroup, Row
from genlm.cli.errors import INTERRUPTED, report
from genlm.cli.signals import INTERRUPT_NOTICE, unwind_on_signals
from genlm.records.made_by import COMMAND
from genlm.version import __version__
from genlm.views.terminal import notice, say

# Each command's import path and its line in `genlm --help`, which repeats the first line of the command's help.
COMMANDS = {
    "generate": Row("genlm.cli.generate:generate", "Continue a prompt."),
    "batch": Row("genlm.cli.batch:batch", "Continue every prompt in files and write the completions to a file."),
    "merge": Row("genlm.cli.cluster:merge", "Merge the parts that genlm batch --runner ray wrote into one file."),
    "compare": Row("genlm.cli.compare:compare", "Compare strategies side by side: their texts and metrics."),
    "next": Row(
        "genlm.cli.next:next_command",
        "Show the most likely next tokens with their probabilities.",
    ),
    "score": Row(
        "genlm.cli.score:score",
        "Score texts: log-probability, perplexity, bits per byte, and the rank of every token.",
    ),
    "tokenize": Row(
        "genlm.cli.tokenize:tokenize",
        "Show the tokens of a text with their ids, offsets and bytes, or turn ids into text.",
    ),
    "attention": Row(
        "genlm.cli.attention:attention",
        "Show the attention weights of each layer and head: softmax(QK^T / sqrt(d_k)).",
    ),
    "train": Row("genlm.cli.train:train", "Train a GPT-2 on your own texts, or continue training a model."),
    "bench": Row("genlm.cli.bench:bench_command", "Measure how fast a model runs on this machine."),
    "strategies": Row(
        "genlm.cli.list_strategies:strategies",
        "List the decoding strategies with their fields, defaults, ranges and papers.",
    ),
    "env": Row("genlm.cli.env:env", "Show versions, hardware, settings and the Hub cache, for a bug report."),
}


class Commands(LazyGroup):
    """The commands of genlm."""

    table = COMMANDS


app = typer.Typer(
    name="genlm",
    cls=Commands,
    help="Generate text with GPT-2 and a decoding strategy of your choice.",
    epilog="Exit codes: 0 success, 1 failure, 2 wrong usage, 3 partial failure, 130 interrupted. "
    "GENLM_DEBUG=1 shows tracebacks.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"genlm {__version__}")
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Generate text with GPT-2 and a decoding strategy of your choice."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    unwind_on_signals()
    if not _debugs():
        warnings.simplefilter("ignore")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code. Errors are caught here and nowhere else."""
    _replace_closed_streams()
    _use_utf8()
    COMMAND.set(shlex.join(["genlm", *arguments]))
    INTERRUPT_NOTICE.set("")
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="genlm", standalone_mode=False)
        sys.stdout.flush()
    # Not just Exception: Typer and signals raise SystemExit, Ctrl-C raises KeyboardInterrupt.
    except BaseException as error:
        if _debugs():
            traceback.print_exc()
        code = report(error, " ".join(["genlm", *(name for name in arguments[:1] if name in COMMANDS)]))
    if code == INTERRUPTED:
        _end_line()
        if INTERRUPT_NOTICE.get():
            notice(INTERRUPT_NOTICE.get())
    COMMAND.set(None)
    _drop_unwritable_streams()
    return code if isinstance(code, int) else 0


def _debugs() -> bool:
    return os.environ.get("GENLM_DEBUG", "") not in ("", "0")


def _replace_closed_streams() -> None:
    """Replace a closed stdout or stderr, so that the next file to be opened does not get its descriptor.

    Writing to stdout then fails, as it must; text written to stderr is lost.
    """
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _use_utf8() -> None:
    """Write UTF-8 and plain line feeds to pipes and files on every system. A terminal keeps its encoding.

    A character that cannot be encoded, such as half of a surrogate pair, becomes a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            changes = {} if stream.isatty() else {"encoding": "utf-8", "newline": "\n"}
            stream.reconfigure(errors="replace", **changes)  # type: ignore[union-attr]


def _end_line() -> None:
    """Start a new line on the terminal, after the ^C that it shows."""
    if sys.stderr.isatty():
        say((None, ""))
    elif sys.stdout.isatty():
        print()


def _drop_unwritable_streams() -> None:
    """Redirect a stream that cannot be flushed to the null device, so that Python does not fail on it again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
