"""Every error that genlm raises on purpose.

GenlmError                  exit code 1
├── InputError              a prompt, corpus or file that cannot be used
├── ModelError              a model that cannot be loaded or run
│   └── HubUnreachable      the Hub cannot be reached, and the model is not cached
├── OutputError             a result that cannot be written
├── ClusterError            a cluster that cannot be started or reached, or that was lost
├── PartlyFailed            exit code 3: the result was written, but parts of it failed
└── UsageError              exit code 2: the request itself makes no sense
    └── SpecError           a strategy spec with a mistake, and where it is
"""

from __future__ import annotations

from typing import Any


class GenlmError(Exception):
    """An error described in one line.

    `hint` says what to do, in words that fit both Python and the command line. `code` names a problem that a
    command-line option helps with; genlm/cli/errors.py says which option.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without calling the constructor: subclasses take different arguments."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class InputError(GenlmError):
    """A prompt, corpus or input file that cannot be used."""


class ModelError(GenlmError):
    """A model that cannot be loaded or run."""


class HubUnreachable(ModelError):
    """The Hub cannot be reached and the model is not in the cache; `reason` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} is not in the cache, and {reason}",
            hint="HF_ENDPOINT selects another Hub",
            code="hub-unreachable",
        )
        self.reason = reason


class OutputError(GenlmError):
    """A result that cannot be written."""


class ClusterError(GenlmError):
    """A cluster that cannot be started or reached, or that was lost."""


class PartlyFailed(GenlmError):
    """A result that was written although parts of it failed; they are marked in it."""

    exit_code = 3


class UsageError(GenlmError):
    """A request that makes no sense on any machine, such as a field out of range."""

    exit_code = 2


class SpecError(UsageError):
    """A strategy spec that cannot be read; `spec[start:end]` is the part that is wrong."""

    def __init__(self, message: str, *, spec: str, start: int, end: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.spec = spec
        self.start = start
        self.end = max(end, start + 1)


# The most characters of a value that a message repeats.
LONGEST_SHOWN = 60
# The most characters of another library's message.
LONGEST_LINE = 300


def show(value: object) -> str:
    """Return a value as a message repeats it: its `repr`, cut if it is long."""
    try:
        text = repr(value)
    # Python does not write integers of more than 4,300 digits.
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with the error's name if the line says little by itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        line = " ".join([type(error).__name__, *lines[:1]])
    else:
        line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


def is_panic(error: BaseException) -> bool:
    """Return whether a library written in Rust has panicked, which Python code cannot catch as an Exception."""
    return type(error).__name__ == "PanicException"
