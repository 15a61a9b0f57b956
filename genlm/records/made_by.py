"""The provenance of a result: the versions of genlm and of the libraries it runs on, the command and the date."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache

from genlm.version import __version__

# The command line that is running, as a shell reads it; None in Python. `genlm.cli.main` sets it.
COMMAND: ContextVar[str | None] = ContextVar("COMMAND", default=None)


@dataclass(frozen=True)
class Versions:
    """The versions of genlm and of the libraries that decide what it generates."""

    genlm: str
    torch: str
    transformers: str

    @classmethod
    def installed(cls) -> Versions:
        """Return the versions that are installed."""
        return cls(__version__, version_of("torch"), version_of("transformers"))

    def __str__(self) -> str:
        return f"genlm {self.genlm}, torch {self.torch}, transformers {self.transformers}"


@dataclass(frozen=True)
class MadeBy(Versions):
    """`command` is None if the result was made in Python. `date` is in UTC, in ISO 8601, to the second."""

    command: str | None
    date: str

    @classmethod
    def now(cls) -> MadeBy:
        """Return the provenance of a result that is made now."""
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(**vars(Versions.installed()), command=COMMAND.get(), date=date)

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.date}"


@cache
def version_of(package: str) -> str:
    """Return the installed version of a package, without importing it."""
    import importlib.metadata

    return importlib.metadata.version(package)
