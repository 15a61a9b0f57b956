"""The contract that every command keeps, whatever its input, and how a case is checked against it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.driving import Done, call

from fuzz.targets import Case

# Success, failure, wrong usage, partial failure, interrupted, terminated.
EXIT_CODES = {0, 1, 2, 3, 130, 143}
# No case here needs a tenth of it on an idle machine.
MOST_SECONDS = 60
# Beyond what Python, torch and the tiny model take.
MOST_BYTES = 2 << 30
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def check(case: Case) -> None:
    """Run the commands of a case. Raise AssertionError if one breaks the contract."""
    with in_new_folder():
        for name, data in case.files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(data)
        for command in case.commands:
            with time_limit(MOST_SECONDS):
                done = call(*command, stdin=case.stdin)
            check_result(command, done)


def check_result(command: tuple[str, ...], done: Done) -> None:
    """Raise AssertionError if the result of a command breaks the contract."""
    assert done.code in EXIT_CODES, f"exit code {done.code}"
    assert "Traceback" not in done.err, done.err
    assert "error: unexpected " not in done.err or "unexpected argument" in done.err, done.err
    assert "out of memory" not in done.err, done.err
    assert not UNSAFE.search(done.err), f"stderr may act on a terminal: {done.err!r}"
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    if done.code in (1, 2):
        assert len(errors) == 1, f"{len(errors)} error lines: {done.err}"
    if done.code == 0:
        assert not errors, done.err
    if "--format json" in " ".join(command):
        check_documents(done.out)


def check_documents(out: str) -> None:
    """Raise AssertionError unless `out` is a sequence of whole JSON documents, possibly of none."""
    decoder = json.JSONDecoder(parse_constant=reject)
    place = 0
    while out[place:].strip():
        try:
            _, place = decoder.raw_decode(out, place + len(out[place:]) - len(out[place:].lstrip()))
        except ValueError as error:
            raise AssertionError(f"not a whole JSON document: {error}: {out[-300:]!r}") from error


def reject(name: str) -> None:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def in_new_folder() -> Iterator[None]:
    """Change to a new folder, which is removed afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


class TooSlow(BaseException):
    """A command took longer than it may."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TooSlow in the block when the time is over. Windows has no such alarm."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Let this process take MOST_BYTES more of address space from now on. Only Linux keeps to that."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    import psutil

    limit = psutil.Process().memory_info().vms + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
