"""Show errors on the command line: one line, a hint if there is one, and an exit code.

Code outside genlm/cli is used from Python too, so its errors never name a command-line option. If an option helps, the
error carries a `code`, and the table HINTS adds the option to the hint.
"""

from __future__ import annotations

import errno
import re
import sys
from ast import literal_eval
from typing import Any

import typer

from genlm.errors import GenlmError, SpecError
from genlm.views.terminal import one_line, say, underlined

INTERRUPTED = 130

# The hint that the command line adds to an error, by the error's `code`.
HINTS = {
    # Models and devices.
    "hub-unreachable": "the bundled model fable needs no download",
    "pickled-weights": "--allow-pickle loads them, if you trust their source",
    "device-unavailable": "--device auto picks the best available",
    "int8-unsupported": "--dtype auto works with every model",
    "int8-needs-genlm": "--engine genlm runs GPT-2 models in int8 on the CPU",
    # Prompts and texts.
    "prompt-too-long": "--overflow truncate-left drops the start of the prompt",
    "no-start-token": "--no-bos scores without one",
    "input-format": "--input-format FORMAT sets it",
    "prompt-column": "--prompt-field NAME selects another",
    "id-column": "--id-field NAME selects another",
    "text-field": "--text-field NAME selects another",
    # Saved results.
    "not-a-result": "genlm generate --format json writes one",
    "not-a-comparison": "genlm compare --format json writes one",
    "page-too-large": "select one with --layer or --head, or shorten the prompt",
    # Runs that can be continued.
    "resumable": "--resume continues",
    "row-failed": "--resume continues with the other rows",
    "output-exists": "--resume continues it, --overwrite starts over",
    "output-not-resumable": "--overwrite starts over",
    "prompts-changed": "--redo-changed runs these rows again",
    "parts-missing": "the same command with --resume generates the missing records",
    "csv-safe": "drop --csv-safe",
    # Clusters.
    "too-many-workers": "lower --workers, --cpus-per-worker or --gpus-per-worker; fractions share a device",
    "ray-failed": "--verbose shows Ray's output",
    # Training.
    "needs-held-out-text": "--valid FILE or --valid-share X provides it",
    "corpus-too-short": "--valid-share 0 holds nothing out",
    "run-finished": "--overwrite trains again, --base DIR continues with its model",
    "run-differs": "--resume -o DIR alone continues with the original settings",
    # Benchmarks.
    "bench-too-long": "lower --prompt-tokens or --new-tokens",
}


# The expected value, by the start of pydantic's error type or of Typer 0.28's type name.
TYPES = {"int": "a whole number", "float": "a number", "string": "text"}
LONGEST_VALUE = 40


def report(error: BaseException, command: str = "genlm") -> int:
    """Show an error on stderr and return the exit code. The hint for wrong usage is `command` --help."""
    if _is_closed_pipe(error):
        return 0
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, GenlmError):
        marked = underlined(error.spec, error.start, error.end) if isinstance(error, SpecError) else ""
        _show(str(error), hint_of(error), marked)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        _show(usage_message(error), f"{context.command_path if context else command} --help")
        return error.exit_code
    from genlm.model.memory import is_out_of_memory

    if is_out_of_memory(error):
        _show("out of memory", "use fewer completions (-n) or beams, a smaller batch, or a smaller model")
    elif isinstance(error, OSError):
        _show(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    else:
        _show(f"unexpected {type(error).__name__}: {error}", "GENLM_DEBUG=1 shows the traceback; please report it")
    return 1


def hint_of(error: GenlmError) -> str | None:
    """Return the hint to show for an error on the command line, or None."""
    parts = (error.hint, HINTS.get(error.code or ""))
    return "; ".join(part for part in parts if part) or None


def usage_message(error: typer.TyperException) -> str:
    """Return Typer's error as one plain sentence."""
    found: Any = error
    message = found.format_message()
    if hasattr(found, "possibilities"):
        similar = " or ".join(sorted(found.possibilities or ()))
        return f"no option {found.option_name}" + (f"; did you mean {similar}?" if similar else "")
    if hasattr(found, "option_name"):
        return f"{found.option_name} {'takes no' if 'does not take' in message else 'needs a'} value"
    if getattr(found, "param", None) is None:
        message = re.sub(r"^Got unexpected extra argument\S* \((.*)\)", r"unexpected argument: \1", message)
        return message[:1].lower() + message[1:].removesuffix(".")
    is_argument = found.param.param_type_name == "argument"
    name = found.param.metavar if is_argument else max(found.param.opts, key=len)
    if not found.message:
        return f"missing {name}" if is_argument else f"missing {name} {found.param.metavar}"
    return f"{name}: {_problem(found)}"


def _problem(error: Any) -> str:
    """Say what is wrong with a value that cannot be read."""
    message = str(error.message).removeprefix("Value error, ").removesuffix(".")
    # Typer 0.28 says "'x' is not a valid int"; newer versions pass on pydantic's errors.
    quoted, _, name = message.rpartition(" is not a valid ")
    value = literal_eval(quoted) if name.startswith(tuple(TYPES)) else ""
    for each in getattr(error.__cause__, "errors", list)():
        value, name = str(each["input"]), each["type"]
    shown = repr(value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "…")
    if not name.startswith(tuple(TYPES)):
        return message
    if re.search("[\ud800-\udfff]", value):
        return f"{shown} is not valid UTF-8"
    if name.startswith("int") and value.lstrip("+-").isdecimal():
        return f"{shown} has too many digits"
    return f"{shown} is not {next(noun for start, noun in TYPES.items() if name.startswith(start))}"


def _show(message: str, hint: str | None = None, marked: str = "") -> None:
    say(("bold red", "error: "), (None, one_line(message)), wrap=True)
    for line in marked.splitlines():
        say((None, f"  {line}"))
    if hint is not None:
        say(("bold", "hint: "), (None, one_line(hint)), wrap=True)


def _is_closed_pipe(error: BaseException) -> bool:
    """Return whether the reader has closed the pipe. Typer turns that error into a SystemExit."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    # Windows reports the closed pipe as an invalid argument, without a file's name.
    is_closed_on_windows = (
        sys.platform == "win32"
        and isinstance(cause, OSError)
        and cause.errno == errno.EINVAL
        and cause.filename is None
    )
    return is_closed_on_windows or isinstance(cause, BrokenPipeError)
