"""`genlm batch --runner ray` on a real Ray: several nodes on this machine, and processes that are killed.

One cluster serves all tests: a head for the coordinator and nodes with a CPU each for a worker each. These tests wait
more than they compute, so one pytest worker runs them all beside the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.driving import call, start
from support.gpt2 import save_gpt2
from support.ray_cluster import PATIENCE_S, Cluster, session_processes, wait_until

from genlm.records.batch import BatchRecord

# To import Ray here would fix its settings before a test can choose them.
pytestmark = [
    pytest.mark.ray,
    # Ray causes warnings itself.
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs genlm[ray]"),
]

# What pipeline.py reads at once; to import it here would import Ray.
QUICK_BYTES = 32 << 20
WORKER = "ray::MapWorker"
COORDINATOR = "ray::Coordinator"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token for the Rays of these tests, so that the user's own token is neither read nor made."""
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
def cluster(token: None) -> Iterator[Cluster]:
    """The cluster."""
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose texts take long enough that a part is seen before the next one is finished."""
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
    """Return the records that one machine makes of them."""
    output = tmp_path_factory.mktemp("alone") / "alone.jsonl"
    assert call("batch", prompts, "-o", output, *settings(slow)).code == 3
    return output.read_bytes()


def settings(model: Path, new: int = 30) -> list[str]:
    """Return the options of all runs. Without others beside it, a completion is the same to the last digit."""
    return ["-m", str(model), "--seed", "7", "--max-new-tokens", str(new), "--device", "cpu", "--deterministic"]


def on(cluster: Cluster, prompts: Path, output: Path, model: Path, *more: str) -> list[str]:
    """Return the arguments of a run on the cluster."""
    options = ["--runner", "ray", "--address", cluster.address, "--workers", "2", "--cpus-per-worker", "1"]
    return ["batch", str(prompts), "-o", str(output), *settings(model), *options, *more]


def merged(parts: Path) -> bytes:
    """Return the parts merged into one file."""
    output = parts.with_suffix(".jsonl")
    done = call("merge", parts, "-o", output)
    assert done.code == 0, done.err
    return output.read_bytes()


def read_from(path: Path, data: bytes) -> bytes:
    """Return records with errors that name the file at `path`."""
    records = [BatchRecord.from_line(line) for line in data.splitlines()]
    moved = [replace(each, error=each.error and replace(each.error, file=str(path))) for each in records]
    return "".join(f"{each.to_line()}\n" for each in moved).encode()


def parts_of(folder: Path) -> list[Path]:
    """Return the complete parts."""
    return sorted(folder.glob("part-*.jsonl"))


@contextlib.contextmanager
def paused(cluster: Cluster) -> Iterator[None]:
    """Stop the workers, so that the run cannot end before the test interrupts it, however fast the machine is."""
    workers = [worker for node in cluster.workers for worker in node.processes(WORKER)]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)


@pytest.fixture(scope="module")
def killed(token: None, prompts: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return the session of a command that was killed while its own Ray was running."""
    parts = tmp_path_factory.mktemp("killed") / "parts"
    with subprocess_of("batch", prompts, "-o", parts, *settings(slow), "--runner", "ray") as run:
        wait_until((parts / "manifest.json").exists, "the beginning")
        assert ray_in(run.pid)
        run.kill()
    return run.pid


def ray_in(session: int) -> list[str]:
    """Return the processes of a Ray that may take much memory. Those that watch over them take a minute to end."""
    lines = session_processes(session).values()
    return [line for line in lines if "/ray/core/src/" in line or line.startswith((WORKER, COORDINATOR, "ray::IDLE"))]


def test_a_ray_of_this_machine_stops_when_its_command_is_killed(killed: int) -> None:
    wait_until(lambda: not ray_in(killed), "the end of the workers")


def test_parts_are_the_same_as_on_one_machine(
    cluster: Cluster, prompts: Path, long: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    done = call(*on(cluster, long, tmp_path / "parts", slow))
    assert done.code == 3, done.err
    assert done.out == ""
    assert "line 41: not valid JSON" in done.err
    assert done.err.splitlines()[-1].startswith("96 of 96 prompts are in ")
    assert "2 of them with an error" in done.err
    assert len(parts_of(tmp_path / "parts")) > 2
    assert merged(tmp_path / "parts") == read_from(long, alone)


def test_a_worker_and_then_a_node_are_lost(
    cluster: Cluster, prompts: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    parts, (first, second) = tmp_path / "parts", cluster.workers
    with subprocess_of(*on(cluster, prompts, parts, slow)) as run:
        wait_until(lambda: first.processes(WORKER) and parts_of(parts), "a worker and a part")
        assert len(cluster.head.processes(COORDINATOR)) == 1
        with paused(cluster):
            os.kill(first.processes(WORKER)[0], signal.SIGKILL)
            wait_until(lambda: second.processes(WORKER), "the other worker")
            before = parts_of(parts)
            second.kill()
        cluster.workers[1] = cluster.add()
        _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3, err.decode()
    assert 0 < len(before) < len(parts_of(parts))
    assert merged(parts) == alone


def test_an_interrupted_run_can_be_resumed(
    cluster: Cluster, prompts: Path, slow: Path, alone: bytes, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    assert exit_code_after(signal.SIGINT, cluster, parts, on(cluster, prompts, parts, slow)) == 130
    assert "already exists" in call(*on(cluster, prompts, parts, slow)).error()
    assert "is not finished" in call("merge", parts, "-o", tmp_path / "merged.jsonl").error()

    done = call(*on(cluster, prompts, parts, slow, "--resume"))
    assert done.code == 3, done.err
    assert not (parts / "unfinished").exists()
    assert merged(parts) == alone


def test_sigterm_keeps_the_records_that_are_finished(
    cluster: Cluster, prompts: Path, slow: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    assert exit_code_after(signal.SIGTERM, cluster, parts, on(cluster, prompts, parts, slow)) == 143
    assert list((parts / "unfinished").iterdir())


def exit_code_after(number: signal.Signals, cluster: Cluster, parts: Path, arguments: list[str]) -> int:
    """Send a signal to a run when it has a part. Return its exit code."""
    with subprocess_of(*arguments) as run:
        wait_until(lambda: parts_of(parts), "a part")
        with paused(cluster):
            run.send_signal(number)
            said = read_until(run, b"press Ctrl-C again to stop immediately")
            # It stops the workers right after this message.
            time.sleep(0.5)
        _, err = run.communicate(timeout=PATIENCE_S)
    said += err
    assert b"--resume continues" in said, said.decode()
    assert b"Traceback" not in said
    return run.returncode


def read_until(run: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Read the output of a run until it contains `text`."""
    assert run.stderr is not None
    said = b""
    while text not in said:
        more = run.stderr.read(65536)
        assert more, f"ended after {said!r}"
        said += more
    return said


def test_a_killed_run_can_be_resumed(cluster: Cluster, prompts: Path, slow: Path, alone: bytes, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    with subprocess_of(*on(cluster, prompts, parts, slow)) as run:
        wait_until(lambda: len(parts_of(parts)) > 1, "two parts")
        with paused(cluster):
            run.kill()
    wait_until(lambda: not any(node.processes(WORKER) for node in cluster.workers), "the end of the workers")
    assert "is not finished" in call("merge", parts, "-o", tmp_path / "merged.jsonl").error()

    whole, torn = parts_of(parts)[:2]
    untouched = whole.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:-30])
    done = call(*on(cluster, prompts, parts, slow, "--resume"))
    assert done.code == 3, done.err
    assert whole.stat().st_mtime_ns == untouched
    assert not (parts / "unfinished").exists()
    assert merged(parts) == alone


def test_an_error_on_a_worker_is_one_line(cluster: Cluster, prompts: Path, copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"no weights")
    done = call(*on(cluster, prompts, tmp_path / "parts", copied))
    assert done.code == 1
    assert "model.safetensors" in done.error()


def test_a_ray_of_this_machine_ends_with_the_command(token: None, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("The king\nThe wolf\nThe fox\n")
    arguments = ("batch", tmp_path / "prompts.txt", "-o", tmp_path / "parts", *settings(tiny, 5))
    with subprocess_of(*arguments, "--runner", "ray", "--workers", "2") as run:
        out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err.decode()
    assert out == b""
    assert [line for line in err.decode().splitlines() if " of 3 prompts" not in line] == []
    assert merged(tmp_path / "parts").count(b"\n") == 3
    wait_until(lambda: not session_processes(run.pid), "the end of Ray")


def test_rows_are_read_in_advance_only_if_they_are_few(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import ray

    from genlm.tasks.cluster import pipeline

    read_here = []

    def read(file: int) -> Iterator[Any]:
        for row in range(3):
            read_here.append((file, row))
            yield pa.table({"chunk": [bytes([file, row])]})

    def rows() -> list[bytes]:
        read_here.clear()
        return sorted(row["chunk"] for row in pipeline.Reader(plan, read).dataset(1).iter_rows())

    path = tmp_path / "small"
    path.touch()
    plan: Any = SimpleNamespace(files=[SimpleNamespace(path=path)] * 2)
    expected = [bytes([file, row]) for file in range(2) for row in range(3)]
    ray.init(address=cluster.address, logging_level="critical", log_to_driver=False)
    try:
        assert rows() == expected
        assert len(read_here) == len(expected)
        # As with a small compressed file.
        monkeypatch.setattr(pipeline, "QUICK_BYTES", 20)
        assert rows() == expected
        assert len(read_here) < len(expected)
    finally:
        ray.shutdown()


def test_nothing_of_a_ray_outlives_a_killed_command_for_long(killed: int) -> None:
    """The last test, because Ray takes a minute."""
    wait_until(lambda: not session_processes(killed), "the end of Ray")


@contextlib.contextmanager
def subprocess_of(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in its own process and session, which ends with the context."""
    run = start(*arguments, start_new_session=True)
    try:
        yield run
    finally:
        run.kill()
        run.communicate()
