"""A Ray cluster of several nodes on this machine, each started by `ray start`, and the processes that run on them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from support.driving import wait_until as wait_for

PATIENCE_S = 300.0
wait_until = partial(wait_for, patience_s=PATIENCE_S)

# Notice within 5 s, not 15, that a node is gone, and give workers their share of a busy machine.
SYSTEM_CONFIG = {"health_check_period_ms": 1000, "worker_niceness": 0}


class Process(NamedTuple):
    """A process of this machine."""

    line: str
    parent: int
    session: int


class Node:
    """A node: `ray start --block`, and the processes that it starts, which end when it does."""

    def __init__(self, log: Path, *options: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--include-log-monitor=false"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *ports, f"--object-store-memory={100 << 20}", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_started(self) -> None:
        """Wait until the node is part of the cluster."""
        wait_until(self._has_started, "the start of a node")

    def processes(self, kind: str) -> list[int]:
        """Return the processes on the node whose command line starts like this."""
        every = processes()
        raylets = {each for each, process in every.items() if process.parent == self._process.pid}
        return [each for each, process in every.items() if process.parent in raylets and process.line.startswith(kind)]

    def kill(self) -> None:
        """End all its processes at once, as a loss of power does. Ray itself would take half a minute."""
        below = self.processes("")
        self._process.kill()
        self._process.wait()
        for process in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _has_started(self) -> bool:
        log = self._log.read_text(errors="replace")
        assert self._process.poll() is None, log
        return "Ray runtime started" in log


class Cluster:
    """A head without CPUs, so that it runs the coordinator alone, and two nodes with one CPU each."""

    def __init__(self) -> None:
        # Not in pytest's folder: the path of a socket in it would be too long.
        self._folder = Path(tempfile.mkdtemp(prefix="genlm-ray-", dir="/tmp"))
        self._nodes: list[Node] = []
        self.address = f"127.0.0.1:{free_port()}"
        self.head = self._begin(
            "--head",
            f"--port={self.address.partition(':')[2]}",
            "--num-cpus=0",
            f"--temp-dir={self._folder}",
            f"--system-config={json.dumps(SYSTEM_CONFIG)}",
            f"--ray-client-server-port={free_port()}",
            "--include-dashboard=false",
            "--no-monitor",
        )
        try:
            self.head.wait_until_started()
            # One after the other: two nodes that start at once on one machine take each other's sockets.
            self.workers = [self.add(), self.add()]
        except BaseException:
            self.close()
            raise

    def add(self) -> Node:
        """Add a node with one CPU."""
        worker = self._begin(f"--address={self.address}", "--num-cpus=1")
        worker.wait_until_started()
        return worker

    def close(self) -> None:
        """End all nodes."""
        for node in reversed(self._nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, *options: str) -> Node:
        node = Node(self._folder / f"node{len(self._nodes)}.log", *options)
        self._nodes.append(node)
        return node


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def processes() -> dict[int, Process]:
    """Return all processes of this machine."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            _, parent, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = Process(line, int(parent), int(session))
    return found


def session_processes(session: int) -> dict[int, str]:
    """Return the command lines of the processes in a session, which goes by the id of its first process."""
    return {each: process.line for each, process in processes().items() if process.session == session}
