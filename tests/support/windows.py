"""Run commands in a Linux process that imitates Windows.

It imitates missing modules and functions, files in use, default encodings and line breaks, signals and pipes. It does
not prove that genlm runs on Windows itself.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from support.driving import Done, wait_until

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
FUNCTIONS = (
    *("fchmod", "fchown", "fork", "forkpty", "geteuid", "getloadavg", "getuid", "killpg", "mkfifo", "posix_fadvise"),
    *("pread", "preadv", "pwrite", "pwritev", "sched_getaffinity", "sched_setaffinity", "setsid", "uname", "wait4"),
)
# torch needs SIGKILL on Linux.
SIGNALS = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "pthread_sigmask")
# The default of Western European Windows.
ENCODING = "cp1252"
# On a busy machine it takes a while to import torch and transformers.
PATIENCE_S = 300.0
# filelock handles its own lock files differently on Windows.
FILELOCK = re.compile(r"[^/]\.lock(\.break\.[^/]*)?$")


@dataclass(frozen=True)
class Command:
    """The arguments of genlm. With `interrupted_by`, Ctrl-C comes as soon as that file exists."""

    arguments: Sequence[str]
    interrupted_by: str | None = None


def start_as_on_windows(*commands: Command, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that runs these commands in a folder; `results` reads its stdout."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\nfrom support.windows import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, json.dumps([asdict(command) for command in commands])],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=folder,
    )


def results(process: subprocess.Popen[bytes]) -> list[Done]:
    """Wait for the process to end. Return the results of its commands, line breaks unchanged."""
    out, _ = process.communicate()
    assert process.returncode == 0
    return [Done(**each) for each in json.loads(out)]


def main() -> None:
    """Run the commands in sys.argv and print their results."""
    commands = [Command(**each) for each in json.loads(sys.argv[1])]
    stdout = sys.stdout
    pretend()
    done = [_run(command) for command in commands]
    json.dump([asdict(each) for each in done], stdout)


def _run(command: Command) -> Done:
    from genlm.cli.main import run

    if command.interrupted_by is not None:
        Thread(target=_interrupt, args=(Path(command.interrupted_by),), daemon=True).start()
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=ENCODING, newline="\r\n") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(command.arguments))
        out.flush()
        err.flush()
    return Done(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def _interrupt(file: Path) -> None:
    wait_until(file.exists, str(file), patience_s=PATIENCE_S)
    signal.raise_signal(signal.SIGINT)


def pretend() -> None:
    """Change this process permanently. Call it before genlm is imported."""
    # On Linux, these need Linux's functions while they are imported.
    import asyncio  # noqa: F401

    import numpy  # noqa: F401
    import psutil  # noqa: F401
    import torch  # noqa: F401

    refuse_files_in_use()
    refuse_to_sync_files_open_for_reading()
    change_open()
    select.select = _raise_not_a_socket
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    # It needs termios. It also imports filelock, which must not find fcntl.
    import huggingface_hub.utils  # noqa: F401

    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in FUNCTIONS:
        delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)


def refuse_files_in_use() -> None:
    """Refuse to delete, rename or replace a file that this process has open or mapped."""
    listdir, readlink, open_file = os.listdir, os.readlink, io.open

    def files_in_use() -> set[str]:
        found = set()
        for descriptor in listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.add(readlink(f"/proc/self/fd/{descriptor}"))
        with open_file("/proc/self/maps", encoding="utf-8") as maps:
            return found | {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}

    def refusing(call: Callable[..., None], paths: int) -> Callable[..., None]:
        def checked(*arguments: Any, **options: Any) -> None:
            # shutil.rmtree passes paths relative to an open folder.
            if not any(value is not None for value in options.values()):
                in_use = files_in_use()
                for path in map(os.fsdecode, arguments[:paths]):
                    if os.path.realpath(path) in in_use and not FILELOCK.search(path):
                        raise PermissionError(errno.EACCES, "the file is in use", path)
            call(*arguments, **options)

        return checked

    for name, paths in {"remove": 1, "unlink": 1, "rename": 2, "replace": 2}.items():
        setattr(os, name, refusing(getattr(os, name), paths))


def refuse_to_sync_files_open_for_reading() -> None:
    """Make os.fsync fail unless the file is open for writing."""
    import fcntl

    fsync = os.fsync

    def checked(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fsync(descriptor)

    os.fsync = checked


def change_open() -> None:
    """Hide /proc and /sys, and make Windows' encoding and line breaks the default of text files."""
    open_file = io.open

    def changed(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
        *others: Any,
    ) -> Any:  # fmt: skip
        if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
        if "b" not in mode:
            encoding = ENCODING if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and mode.strip("rt") else newline
        return open_file(file, mode, buffering, encoding, errors, newline, *others)

    builtins.open = io.open = changed


def _raise_not_a_socket(*_: Any) -> Any:
    raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
