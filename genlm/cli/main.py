"""The application and its one error boundary."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from genlm import __version__
from genlm.cli.generate import generate
from genlm.errors import GenlmError, SpecError
from genlm.views.terminal import visible

INTERRUPTED = 130

app = typer.Typer(
    name="genlm",
    help="Generate text with GPT-2 and a decoding strategy of your choice.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. GENLM_DEBUG=1 shows tracebacks.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generate)


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
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    debug = os.environ.get("GENLM_DEBUG", "") not in ("", "0")
    if not debug:
        warnings.simplefilter("ignore")
    _speak_utf8()
    try:
        code = typer.main.get_command(app).main(arguments or ["--help"], prog_name="genlm", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _report(error)


def _report(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        _drop_stdout()
        return 0
    if isinstance(error, GenlmError):
        place = error.underlined() if isinstance(error, SpecError) else None
        _say(str(error), place, error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "genlm"
        _say(error.format_message(), None, f"{command} --help")
        return error.exit_code
    if isinstance(error, MemoryError):
        _say("out of memory", None, "fewer samples (-n) or a smaller model need less")
        return 1
    if isinstance(error, Exception):
        _say(f"unexpected {type(error).__name__}: {error}", None, "GENLM_DEBUG=1 shows where; please report it")
        return 1
    raise error


def _say(message: str, place: str | None, hint: str | None) -> None:
    # A line break in a message, as a file name may have, must not begin a line of its own.
    print(f"error: {_one_line(message)}", file=sys.stderr)
    if place is not None:
        print("\n".join("  " + line for line in visible(place).splitlines()), file=sys.stderr)
    if hint is not None:
        print(f"hint: {_one_line(hint)}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _speak_utf8() -> None:
    """Pipes carry UTF-8 whatever the locale; a terminal of another encoding shows what it can."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            if stream.isatty():
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
            else:
                stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]


def _drop_stdout() -> None:
    """Let nothing more be written to a pipe that is closed, not even by Python at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
