"""The application and its one error boundary."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from genlm import __version__
from genlm.cli.command import LazyGroup, Row
from genlm.cli.hints import hint_of
from genlm.cli.signals import end_tidily_when_told
from genlm.errors import GenlmError, SpecError
from genlm.views.terminal import one_line, say, underlined

INTERRUPTED = 130


# Every command: where it is, and what `genlm --help` says of it, the first line of its own help.
COMMANDS = {
    "generate": Row("genlm.cli.generate:generate", "Continue a prompt."),
    "batch": Row("genlm.cli.batch:batch", "Continue every prompt of files, and write a file of completions."),
    "compare": Row(
        "genlm.cli.compare:compare", "Compare strategies side by side: their texts, and what the metrics say of them."
    ),
    "next": Row(
        "genlm.cli.next:next_command",
        "Show what may come next: the most likely tokens with their probabilities.",
    ),
    "score": Row(
        "genlm.cli.score:score",
        "Score texts: log-probability, perplexity, bits per byte, and the rank of every token.",
    ),
    "tokenize": Row(
        "genlm.cli.tokenize:tokenize",
        "Show the tokens that a text is to the model: pieces, ids, places, bytes; or turn ids back into text.",
    ),
    "attention": Row(
        "genlm.cli.attention:attention",
        "Show what each token of a prompt attends to: softmax(QK^T / sqrt(d_k)), layer by layer, head by head.",
    ),
    "train": Row("genlm.cli.train:train", "Train a GPT-2 on texts of your own, or go on with a trained model."),
    "bench": Row("genlm.cli.bench:bench_command", "Measure how fast a model runs on this machine."),
    "strategies": Row(
        "genlm.cli.list_strategies:strategies",
        "List the decoding strategies: what each does, its fields with defaults and ranges, its paper.",
    ),
    "env": Row("genlm.cli.env:env", "Show what a bug report needs: versions, hardware, settings, the Hub cache."),
}


class Commands(LazyGroup):
    """The commands of genlm."""

    table = COMMANDS


app = typer.Typer(
    name="genlm",
    cls=Commands,
    help="Generate text with GPT-2 and a decoding strategy of your choice.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some parts failed, 130 interrupted. "
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
    """Run the command line and exit. Only here are errors caught: each is one line, and an exit code."""
    end_tidily_when_told()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    debug = os.environ.get("GENLM_DEBUG", "") not in ("", "0")
    if not debug:
        warnings.simplefilter("ignore")
    _open_closed_streams()
    _speak_utf8()
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="genlm", standalone_mode=False)
        sys.stdout.flush()
    # Every one: SystemExit is how Typer and a signal end a run, KeyboardInterrupt how a user does.
    except BaseException as error:
        if debug:
            traceback.print_exc()
        code = _report(error)
    if code == INTERRUPTED:
        _end_line()
    _drop_unwritable_streams()
    return code if isinstance(code, int) else 0


def _report(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code."""
    if _is_closed_pipe(error):
        return 0
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, GenlmError):
        place = underlined(error.spec, error.start, error.end) if isinstance(error, SpecError) else None
        _say_error(str(error), hint_of(error), place)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        # The words of the library that checks values.
        message = error.format_message().replace(": Value error, ", ": ", 1)
        _say_error(message, f"{context.command_path if context else 'genlm'} --help")
        return error.exit_code
    from genlm.model.memory import is_out_of_memory

    if is_out_of_memory(error):
        _say_error("out of memory", "fewer samples (-n) or beams, smaller batches, or a smaller model need less")
    elif isinstance(error, OSError):
        _say_error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    else:
        _say_error(f"unexpected {type(error).__name__}: {error}", "GENLM_DEBUG=1 shows where; please report it")
    return 1


def _say_error(message: str, hint: str | None = None, place: str | None = None) -> None:
    say(("bold red", "error: "), (None, one_line(message)))
    for line in (place or "").splitlines():
        say((None, f"  {line}"))
    if hint is not None:
        say(("bold", "hint: "), (None, one_line(hint)))


def _is_closed_pipe(error: BaseException) -> bool:
    """Whether the reader of a pipe has left. Typer makes a SystemExit of the error where a command raises it."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    # Windows reports the closed pipe as an invalid argument, without a file's name.
    is_closed_on_windows = (
        sys.platform == "win32"
        and isinstance(cause, OSError)
        and cause.errno == errno.EINVAL
        and cause.filename is None
    )
    return is_closed_on_windows or isinstance(cause, BrokenPipeError)


def _open_closed_streams() -> None:
    """Fill the places of a closed stdout and stderr, which the next file to be opened would take.

    What is written to stderr is then lost; writing to stdout fails, as it must.
    """
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _speak_utf8() -> None:
    """Write UTF-8 and plain line feeds to pipes and files on every system; a terminal shows what its encoding can."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            if stream.isatty():
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
            else:
                stream.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]


def _end_line() -> None:
    """Begin a new line on the terminal, after its own ^C, for the prompt that comes next."""
    if sys.stderr.isatty():
        say((None, ""))
    elif sys.stdout.isatty():
        print()


def _drop_unwritable_streams() -> None:
    """Let what a stream could not take go nowhere, so that Python does not try and fail again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
