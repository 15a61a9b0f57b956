"""`genlm batch --engine ray` on a real Ray: several nodes on this machine, and processes that are killed.

One cluster serves all tests: a head for the conductor and nodes with a CPU each for a worker each.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.driving import call, genlm, start
from support.driving import wait_until as wait_for
from support.gpt2 import save_gpt2

# To import Ray here would fix its settings before a test can choose them.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs genlm[ray]"),
]

PATIENCE_S = 300.0
wait_until = partial(wait_for, patience_s=PATIENCE_S)
# What pipeline.py reads at once; to import it here would import Ray.
QUICK_BYTES = 32 << 20
WORKER = "ray::MapWorker"
CONDUCTOR = "ray::Conductor"


class Nodes:
    """A Ray of several nodes, each with processes of its own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        memory = {"object_store_memory": 100 << 20}
        # Not in pytest's own folder, whose name would be too long for a socket in it.
        self._folder = tempfile.mkdtemp(prefix="genlm-ray-", dir="/tmp")
        # A node that is gone is taken for dead after 5 s, not 15, and the workers have their share of a busy machine.
        settings = {"health_check_period_ms": 1000, "worker_niceness": 0}
        head = {"num_cpus": 0, "temp_dir": self._folder, "_system_config": settings, **memory}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._memory = memory
        self.head = self._cluster.head_node
        self.workers = [self.add(), self.add()]
        self.address: str = self._cluster.address

    def add(self) -> Any:
        """One more node, with a CPU."""
        return self._cluster.add_node(num_cpus=1, **self._memory)

    def kill(self, node: Any) -> None:
        """End all processes of a node, as a loss of power does."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token for the Rays of these tests alone: none of the user's own is read or made."""
    path = tmp_path_factory.mktemp("ray") / "token"
    path.touch(0o600)
    path.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def nodes(token: None) -> Iterator[Nodes]:
    """The cluster."""
    made = Nodes()
    yield made
    made.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose texts take a while, so that there is time to kill something."""
    return save_gpt2(
        tmp_path_factory.mktemp("slow") / "slow", n_positions=1024, n_layer=4, eos_token_id=None, bos_token_id=None
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of many lengths, two of them bad."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [json.dumps({"id": f"r{n}", "prompt": "The king had a fox. " * (n % 3 + 1), "n": n}) for n in range(96)]
    rows[40] = '{"id": "broken", '
    rows[41] = json.dumps({"id": "r41", "prompt": 41})
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def long(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in a file that is too long to be read at once."""
    path = tmp_path_factory.mktemp("long") / prompts.name
    path.write_text(prompts.read_text() + ("\n" + " " * 1023) * (QUICK_BYTES >> 10))
    return path


@pytest.fixture(scope="module")
def alone(prompts: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one machine makes of them."""
    output = tmp_path_factory.mktemp("alone") / "alone.jsonl"
    assert call("batch", prompts, "-o", output, *settings(slow)).code == 3
    return output.read_bytes()


def settings(model: Path, new: int = 100) -> list[str]:
    """Those of all runs; alone, a completion is the same to the last digit of its log-probability.

    So long that a part takes some seconds: a run that is told to stop makes records until its workers have heard of it.
    """
    return ["-m", str(model), "--seed", "7", "--max-new-tokens", str(new), "--device", "cpu", "--deterministic"]


def on(nodes: Nodes, prompts: Path, output: Path, model: Path, *more: str) -> list[str]:
    """The arguments of a run on the cluster."""
    cluster = ["--engine", "ray", "--address", nodes.address, "--workers", "2", "--cpus-per-worker", "1"]
    return ["batch", str(prompts), "-o", str(output), *settings(model), *cluster, *more]


def merged(parts: Path) -> bytes:
    """The parts as one file."""
    output = parts.with_suffix(".jsonl")
    done = call("batch", "--merge", parts, "-o", output)
    assert done.code == 0, done.err
    return output.read_bytes()


def parts_of(folder: Path) -> list[Path]:
    """The parts that are whole."""
    return sorted(folder.glob("part-*.jsonl"))


def commands() -> dict[int, str]:
    """The command lines of all processes."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def parent(process: int) -> int:
    """The process that started another."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def on_node(node: Any, kind: str) -> list[int]:
    """The processes of one kind that run on a node."""
    raylet = node.all_processes["raylet"][0].process.pid
    return [process for process, line in commands().items() if line.startswith(kind) and parent(process) == raylet]


def workers_on(node: Any) -> list[int]:
    """The workers that run on a node."""
    return on_node(node, WORKER)


def test_parts_are_what_one_machine_makes(
    nodes: Nodes, prompts: Path, long: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    done = call(*on(nodes, long, tmp_path / "parts", slow))
    assert done.code == 3, done.err
    assert done.out == ""
    assert "line 41: not valid JSON" in done.err
    assert done.err.splitlines()[-1].startswith("96 of 96 prompts are in ")
    assert "2 of them with an error" in done.err
    assert len(parts_of(tmp_path / "parts")) > 2
    assert merged(tmp_path / "parts") == alone.replace(str(prompts).encode(), str(long).encode())


def test_a_worker_and_then_a_node_are_lost(
    nodes: Nodes, prompts: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    parts, (first, second) = tmp_path / "parts", nodes.workers
    with subprocess_of(*on(nodes, prompts, parts, slow)) as run:
        wait_until(lambda: workers_on(first) and parts_of(parts), "a worker and a part")
        assert len(on_node(nodes.head, CONDUCTOR)) == 1
        os.kill(workers_on(first)[0], signal.SIGKILL)
        wait_until(lambda: workers_on(second), "the other worker")
        before = parts_of(parts)
        nodes.kill(second)
        nodes.workers[1] = nodes.add()
        _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3, err.decode()
    assert before
    assert merged(parts) == alone


def test_a_run_that_is_interrupted_goes_on_where_it_was(
    nodes: Nodes, prompts: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    assert told_to_end(signal.SIGINT, parts, on(nodes, prompts, parts, slow)) == 130
    assert "is there already" in call(*on(nodes, prompts, parts, slow)).error()
    assert "is not finished" in call("batch", "--merge", parts, "-o", tmp_path / "merged.jsonl").error()

    done = call(*on(nodes, prompts, parts, slow, "--resume"))
    assert done.code == 3, done.err
    assert not (parts / "unfinished").exists()
    assert merged(parts) == alone


def test_a_run_that_its_machine_tells_to_end_keeps_what_it_has(
    nodes: Nodes, prompts: Path, slow: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    assert told_to_end(signal.SIGTERM, parts, on(nodes, prompts, parts, slow)) == 143
    assert list((parts / "unfinished").iterdir())


def told_to_end(number: signal.Signals, parts: Path, arguments: list[str]) -> int:
    """The exit code of a run that is sent a signal when it has a part."""
    with subprocess_of(*arguments) as run:
        wait_until(lambda: parts_of(parts), "a part")
        run.send_signal(number)
        _, err = run.communicate(timeout=PATIENCE_S)
    assert b"--resume goes on with the others" in err, err.decode()
    assert b"Traceback" not in err
    return run.returncode


def test_a_run_that_is_killed_goes_on_where_it_was(
    nodes: Nodes, prompts: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    with subprocess_of(*on(nodes, prompts, parts, slow)) as run:
        wait_until(lambda: len(parts_of(parts)) > 1, "two parts")
        run.kill()
    wait_until(lambda: not any(line.startswith(WORKER) for line in commands().values()), "the end of the workers")
    assert "is not finished" in call("batch", "--merge", parts, "-o", tmp_path / "merged.jsonl").error()

    whole, torn = parts_of(parts)[:2]
    untouched = whole.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:-30])
    done = call(*on(nodes, prompts, parts, slow, "--resume"))
    assert done.code == 3, done.err
    assert whole.stat().st_mtime_ns == untouched
    assert not (parts / "unfinished").exists()
    assert merged(parts) == alone


def test_an_error_on_a_worker_is_one_line(nodes: Nodes, prompts: Path, copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"no weights")
    done = call(*on(nodes, prompts, tmp_path / "parts", copied))
    assert done.code == 1
    assert "model.safetensors" in done.error()


def test_a_ray_of_this_machine_ends_with_the_command(token: None, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("The king\nThe wolf\nThe fox\n")
    before = set(ray_processes())
    done = genlm(
        "batch", "prompts.txt", "-o", "parts", *settings(tiny, 5), "--engine", "ray", "--workers", "2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if " of 3 prompts" not in line] == []
    assert merged(tmp_path / "parts").count(b"\n") == 3
    wait_until(lambda: set(ray_processes()) <= before, "the end of Ray")


def test_a_ray_of_this_machine_does_not_outlive_a_killed_command(
    token: None, prompts: Path, slow: Path, tmp_path: Path
) -> None:
    before = set(ray_processes())
    with subprocess_of("batch", prompts, "-o", tmp_path / "parts", *settings(slow), "--engine", "ray") as run:
        wait_until(lambda: (tmp_path / "parts" / "manifest.json").exists(), "the beginning")
        run.kill()
    wait_until(lambda: set(ray_processes()) <= before, "the end of Ray")


def test_rows_are_held_at_once_only_where_they_are_few(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from genlm.tasks.cluster import pipeline

    def read(file: int) -> Iterator[Any]:
        for row in range(3):
            yield pa.table({"chunk": [bytes([file, row])]})

    plan = SimpleNamespace(files=range(2))
    assert [row["chunk"] for row in pipeline._few_rows(plan, read) or []] == [
        bytes([file, row]) for file in range(2) for row in range(3)
    ]
    monkeypatch.setattr(pipeline, "QUICK_BYTES", 20)
    assert pipeline._few_rows(plan, read) is None


def ray_processes() -> list[int]:
    """All processes of any Ray."""
    return [process for process, line in commands().items() if line.startswith("ray::") or "/ray/core/src/" in line]


@contextlib.contextmanager
def subprocess_of(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process of its own, which does not outlive the context."""
    run = start(*arguments)
    try:
        yield run
    finally:
        run.kill()
        run.communicate()
