"""Where a page goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from genlm.errors import UsageError
from genlm.formats.output import is_standard_output, open_output


@contextmanager
def open_page(path: Path | None, output: Path | None) -> Iterator[TextIO | None]:
    """The file that a page is written to, or None where none is asked for.

    Raises:
        UsageError: standard output, or the file that the result goes to.
        OutputError: a file that cannot be written.
    """
    if path is None:
        yield None
        return
    if is_standard_output(path):
        raise UsageError("--html needs a file: standard output is for the result")
    if output is not None and path.resolve() == output.resolve():
        raise UsageError(f"--output and --html both name {path}")
    with open_output(path) as stream:
        yield stream
