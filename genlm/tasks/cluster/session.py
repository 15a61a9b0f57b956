"""A cluster for as long as it is needed: one that is there, or one on this machine that ends with the command."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import ClusterError, OutputError, UsageError
from genlm.formats.journal import open_journal
from genlm.records.cluster import ClusterState
from genlm.tasks.cluster.plan import Plan, Resources

if TYPE_CHECKING:
    from genlm.tasks.cluster.conductor import Outcome

CLIENT = "ray://"
# For the few chunks that are under way. Ray would take a third of the memory, and writes to disk what is beyond.
OBJECT_STORE_BYTES = 256 << 20
# Ray's own niceness of 15 would leave the model next to nothing of a machine that does something else as well.
SYSTEM_CONFIG = {"worker_niceness": 0}
# The socket of a local Ray has a long name, and a system allows one of 107 bytes.
SHORT_TMP = "/tmp"
FOLDER, LOCK = "genlm-ray-", "genlm.lock"
POLL_S = 0.5
# So long a cluster has to take a connection. In seconds.
ANSWER_S = 10.0
# So long the conductor may be out of reach, as while its machine is busy.
UNREACHED_S = 60.0


def check_ray() -> None:
    """Raise UsageError where Ray is not installed."""
    if find_spec("ray") is None or find_spec("ray.data") is None:
        raise UsageError("--engine ray needs Ray Data", hint="pip install 'genlm[ray]'")


class Session:
    """A cluster that one is connected to."""

    def __init__(self, address: str | None) -> None:
        self.address = address

    def resources(self, workers: int | None, cpus: float | None, gpus: float | None) -> Resources:
        """What each worker takes, and how many there are to be: as many as the cluster holds, where it is not said.

        A worker has a GPU of its own if there are any, else it shares the CPUs of the cluster with the others.

        Raises:
            UsageError: more than a Ray on this machine has.
        """
        import ray

        has = ray.cluster_resources()
        all_cpus, all_gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
        gpus = (1.0 if all_gpus else 0.0) if gpus is None else gpus
        if workers is None:
            workers = max(1, int(all_gpus / gpus) if gpus else int(all_cpus / cpus) if cpus else _machines())
        if cpus is None:
            cpus = 1.0 if gpus else max(1.0, all_cpus // workers)
        if self.address is None and (workers * cpus > all_cpus or workers * gpus > all_gpus):
            raise UsageError(
                f"{workers} workers with {cpus:g} CPUs and {gpus:g} GPUs each are more than this machine has: "
                f"{all_cpus:g} and {all_gpus:g}",
                hint="--workers, --cpus-per-worker and --gpus-per-worker say what is to run; fractions are shares",
            )
        return Resources(workers, cpus, gpus)

    @contextmanager
    def run(self, plan: Plan) -> Iterator[Running]:
        """A batch that is run by the cluster, until the context ends."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from genlm.tasks.cluster.conductor import Conductor

        # The conductor is to be lost with this machine only, without which nobody waits for the result.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
        conductor: Any = ray.remote(Conductor).options(**options).remote()
        try:
            yield Running(conductor, plan)
        finally:
            with contextlib.suppress(Exception):
                ray.kill(conductor)


class Running:
    """A batch under way."""

    def __init__(self, conductor: Any, plan: Plan) -> None:
        self._conductor = conductor
        self._outcome = conductor.run.remote(plan)

    def wait(self) -> bool:
        """Wait for its end a little while. Returns whether it has come."""
        import ray

        done, _ = ray.wait([self._outcome], timeout=POLL_S)
        if done and self._is_cut_off():
            self._outcome = self._conductor.outcome.remote()
            return False
        return bool(done)

    def look(self) -> ClusterState:
        """How far it is. Raises ClusterError where the cluster was lost."""
        state: ClusterState = self._ask(self._conductor.look)
        return state

    def stop(self) -> None:
        """Let the workers come to an end."""
        self._ask(self._conductor.stop)

    def outcome(self) -> Outcome:
        """How it ended, once it has. Raises ClusterError where the cluster was lost."""
        import ray
        from ray.exceptions import RayError

        try:
            outcome: Outcome = ray.get(self._outcome)
        except (RayError, ConnectionError) as error:
            raise _lost(error) from error
        return outcome

    def _is_cut_off(self) -> bool:
        """Whether the end that came is that of a connection, and not of the batch."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        try:
            ray.get(self._outcome)
        except ActorUnavailableError:
            return True
        except (RayError, ConnectionError):
            return False
        return False

    def _ask(self, method: Any) -> Any:
        """The conductor's answer, once it can be reached."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        deadline = time.monotonic() + UNREACHED_S
        while True:
            try:
                return ray.get(method.remote())
            except ActorUnavailableError as error:
                if time.monotonic() > deadline:
                    raise _lost(error) from error
                time.sleep(POLL_S)
            except (RayError, ConnectionError) as error:
                raise _lost(error) from error


def _lost(error: Exception) -> ClusterError:
    return ClusterError(f"the cluster was lost: {_line(error)}", hint="--resume continues")


@contextmanager
def open_session(address: str | None, *, dashboard: bool = False, verbose: bool = False) -> Iterator[Session]:
    """A connection to the cluster at `address`; without one, to a Ray on this machine that ends with the context.

    Raises:
        ClusterError: no cluster there, or a Ray that does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is not None:
        _check_answers(address)
    with ExitStack() as stack:
        import ray

        settings: dict[str, Any] = {"log_to_driver": verbose}
        if not verbose:
            settings["logging_level"] = logging.CRITICAL
        if address is None:
            settings |= {
                "address": "local",
                "include_dashboard": dashboard,
                "_temp_dir": stack.enter_context(_folder_of_its_own()),
                "object_store_memory": OBJECT_STORE_BYTES,
                "_system_config": SYSTEM_CONFIG,
            }
        else:
            settings["address"] = address
        stack.callback(ray.shutdown)
        try:
            with _endings_kept():
                ray.init(**settings)
        except Exception as error:
            raise _not_reached(address, error) from error
        yield Session(address)


def _check_answers(address: str) -> None:
    """Raise ClusterError where nobody is at an address. Ray would try for minutes."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not port.isdecimal():
        # Ray knows where that is, or what is wrong with it.
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _not_reached(address, error) from error


@contextmanager
def _endings_kept() -> Iterator[None]:
    """What SIGTERM does is as it was before: Ray takes it for itself, and exits with codes of its own."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise SystemExit(128 + signal.SIGTERM) from error
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _folder_of_its_own() -> Iterator[str]:
    """A folder for a Ray on this machine. Those of commands that were killed are taken away."""
    parent = Path(SHORT_TMP if os.path.isdir(SHORT_TMP) else tempfile.gettempdir())
    for folder in parent.glob(f"{FOLDER}*"):
        _remove_abandoned(folder)
    made = Path(tempfile.mkdtemp(prefix=FOLDER, dir=parent))
    try:
        with open_journal(made / LOCK) as lock:
            # An empty lock is not held yet: see _remove_abandoned.
            lock.append("held")
            yield str(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError, OutputError):
        if (folder / LOCK).stat().st_size:
            with open_journal(folder / LOCK):
                pass
            # Only now, as Windows deletes no file that is open.
            shutil.rmtree(folder, ignore_errors=True)


def _machines() -> int:
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def _not_reached(address: str | None, error: Exception) -> ClusterError:
    said = _line(error)
    if "include dashboard" in said:
        return ClusterError("--dashboard needs Ray's dashboard", hint="pip install 'ray[default]'")
    if address is None:
        return ClusterError(f"Ray does not start on this machine: {said}", hint="--verbose shows what Ray says of it")
    text = " ".join(str(each) for each in (error, error.__cause__ or ""))
    if "ray[client]" in text:
        return ClusterError(f"{address} needs Ray's client", hint="pip install 'ray[client]'")
    if "uthentication" in text or "InvalidAuthToken" in text:
        return ClusterError(
            f"the Ray cluster at {address} wants its token",
            hint="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the token it was started with",
        )
    return ClusterError(f"no Ray cluster at {address}: {said}", hint="ray start --head starts one, ray status finds it")


def _line(error: BaseException) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return next(iter(said.strip().splitlines()), type(error).__name__)


@contextmanager
def silenced() -> Iterator[None]:
    """Keep off the terminal what Ray writes there: by logging, by print, and from C++ to the descriptors themselves.

    What is written to `sys.stderr` meanwhile still gets there.
    """
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
    with ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if _descriptor(sys.stderr) == 2:
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            stderr = stack.enter_context(os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors="replace"))
            stack.enter_context(contextlib.redirect_stderr(stderr))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None
