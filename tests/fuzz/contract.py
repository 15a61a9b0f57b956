"""The contract that every command keeps for any input, and the check of a case against it."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from support.driving import Done, call

from fuzz.targets import Case

# Success, failure, wrong usage, partial failure.
EXIT_CODES = {0, 1, 2, 3}
INTERRUPTED = 130
# No case takes a tenth of that on an idle machine.
MOST_SECONDS = 60
# Beyond what Python, torch and the tiny model take.
MOST_BYTES = 2 << 30
# With these options, --format json leaves stdout without a document.
WITHOUT_DOCUMENT = {"-o", "--output", "--print-python"}
# Characters that a terminal acts on.
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
            # Ctrl-C ends the fuzzing, not just the command.
            if done.code == INTERRUPTED:
                raise KeyboardInterrupt
            check_result(command, done)


def check_result(command: tuple[str, ...], done: Done) -> None:
    """Raise AssertionError if the result of a command breaks the contract."""
    assert done.code in EXIT_CODES, f"exit code {done.code}"
    assert "Traceback" not in done.err, done.err
    assert not re.search(r"^error: unexpected (?!argument:)\w+: ", done.err, re.M), done.err
    assert "out of memory" not in done.err, done.err
    assert not UNSAFE.search(done.err), f"stderr may act on a terminal: {done.err!r}"
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    if done.code in (1, 2):
        assert len(errors) == 1, f"{len(errors)} error lines: {done.err}"
    if done.code == 2:
        assert not done.out, f"wrong usage, but stdout has {done.out[:300]!r}"
    if done.code == 0:
        assert not errors, done.err
    formats = [value for name, value in pairwise(command) if name == "--format"]
    if formats and formats[-1] in ("json", "jsonl"):
        count = count_documents(done.out)
        if done.code == 0 and formats[-1] == "json" and not WITHOUT_DOCUMENT & {*command}:
            assert count == 1, f"{count} JSON documents"


def count_documents(out: str) -> int:
    """Return how many JSON documents `out` holds. Raise AssertionError unless all of it is whole documents."""
    decoder = json.JSONDecoder(parse_constant=reject)
    count, rest = 0, out.lstrip()
    while rest:
        try:
            _, end = decoder.raw_decode(rest)
        except ValueError as error:
            raise AssertionError(f"not a whole JSON document: {error}: {out[-300:]!r}") from error
        count, rest = count + 1, rest[end:].lstrip()
    return count


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
    """A command took too long."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TooSlow in the block after some seconds; on Windows, or if native code does not return, end the process."""

    def stop(number: int, frame: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    faulthandler.dump_traceback_later(2 * seconds, exit=True, file=sys.__stderr__)
    has_alarm = hasattr(signal, "SIGALRM")
    if has_alarm:
        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        if has_alarm:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Limit this process to MOST_BYTES more of address space. Only Linux enforces such a limit."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    import psutil

    limit = psutil.Process().memory_info().vms + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
