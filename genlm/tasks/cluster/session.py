"""A connection to a Ray cluster: an existing one, or one on this machine that ends with the command."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import ClusterError, UsageError
from genlm.formats.folder import temporary_folder
from genlm.records.batch import ClusterState
from genlm.tasks.batch.run import Plan
from genlm.tasks.cluster.worker import Resources

if TYPE_CHECKING:
    from genlm.tasks.cluster.coordinator import Outcome

CLIENT = "ray://"
# Enough for the few chunks in flight. By default Ray takes a third of the memory.
OBJECT_STORE_BYTES = 256 << 20
# With Ray's default niceness of 15, workers get hardly any time on a machine that does something else too.
SYSTEM_CONFIG = {"worker_niceness": 0}
# The path of a Unix socket has at most 107 bytes, and a local Ray's sockets have long names.
SHORT_TMP = "/tmp"
POLL_S = 0.5
# How long a cluster has to accept a connection.
ANSWER_S = 10.0
# How long the coordinator may be out of reach, for example because its machine is busy.
UNREACHED_S = 60.0


def check_ray() -> None:
    """Raise UsageError if Ray is not installed."""
    if find_spec("ray") is None or find_spec("ray.data") is None:
        raise UsageError("Ray Data is not installed", hint="pip install 'genlm[ray]'")


def choose_resources(address: str | None, workers: int | None, cpus: float | None, gpus: float | None) -> Resources:
    """Return how many workers to run on the connected cluster, and what each takes: by default as many as fit.

    By default each worker gets a GPU, or, if there are none, an equal share of the CPUs.

    Raises:
        UsageError: more than this machine has, if there is no address.
    """
    import ray

    has = ray.cluster_resources()
    all_cpus, all_gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    gpus = (1.0 if all_gpus else 0.0) if gpus is None else gpus
    if workers is None:
        machines = sum(1 for node in ray.nodes() if node["Alive"])
        workers = max(1, int(all_gpus / gpus) if gpus else int(all_cpus / cpus) if cpus else machines)
    if cpus is None:
        cpus = 1.0 if gpus else max(1.0, all_cpus // workers)
    if address is None and (workers * cpus > all_cpus or workers * gpus > all_gpus):
        raise UsageError(
            f"{workers} workers with {cpus:g} CPUs and {gpus:g} GPUs each are more than this machine has: "
            f"{all_cpus:g} and {all_gpus:g}",
            code="too-many-workers",
        )
    return Resources(workers, cpus, gpus)


@contextmanager
def start_run(plan: Plan, resources: Resources) -> Iterator[ClusterRun]:
    """Start a batch on the connected cluster. It ends with the context."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from genlm.tasks.cluster.coordinator import CoordinatorActor

    # The coordinator runs on this machine: without this command, nobody would wait for the result.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
    coordinator: Any = ray.remote(CoordinatorActor).options(**options).remote()
    try:
        yield ClusterRun(coordinator, plan, resources)
    finally:
        with contextlib.suppress(Exception):
            ray.kill(coordinator)


class ClusterRun:
    """A batch that runs on a cluster, seen from the command."""

    def __init__(self, coordinator: Any, plan: Plan, resources: Resources) -> None:
        self._coordinator = coordinator
        self._outcome = coordinator.run.remote(plan, resources)

    def wait(self) -> bool:
        """Wait a little. Return whether the batch has ended."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError

        done, _ = ray.wait([self._outcome], timeout=POLL_S)
        if not done:
            return False
        try:
            ray.get(self._outcome)
        except ActorUnavailableError:
            # The connection ended, but not the batch.
            self._outcome = self._coordinator.outcome.remote()
            return False
        except (RayError, ConnectionError):
            # `outcome` raises it again.
            pass
        return True

    def look(self) -> ClusterState:
        """Return the progress. Raise ClusterError if the cluster is lost."""
        state: ClusterState = self._ask(self._coordinator.look)
        return state

    def stop(self) -> None:
        """Let the workers finish the running prompts and start no others."""
        self._ask(self._coordinator.stop)

    def outcome(self) -> Outcome:
        """Return how the batch ended. Raise ClusterError if the cluster is lost."""
        import ray
        from ray.exceptions import RayError

        try:
            outcome: Outcome = ray.get(self._outcome)
        except (RayError, ConnectionError) as error:
            raise _lost(error) from error
        return outcome

    def _ask(self, method: Any) -> Any:
        """Return the coordinator's answer, as soon as it can be reached."""
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
    return ClusterError(f"lost the cluster: {_first_line(error)}", code="resumable")


@contextmanager
def connected(address: str | None, *, dashboard: bool = False, verbose: bool = False) -> Iterator[None]:
    """Connect to the cluster at `address`, or if it is None to a new Ray on this machine that ends with the context.

    Raises:
        ClusterError: no cluster at the address, or a Ray that does not start.
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
            parent = Path(SHORT_TMP) if os.path.isdir(SHORT_TMP) else None
            settings |= {
                "address": "local",
                "include_dashboard": dashboard,
                "_temp_dir": str(stack.enter_context(temporary_folder("ray", parent))),
                "object_store_memory": OBJECT_STORE_BYTES,
                "_system_config": SYSTEM_CONFIG,
            }
        else:
            settings["address"] = address
        stack.callback(ray.shutdown)
        try:
            with _sigterm_preserved():
                ray.init(**settings)
        except Exception as error:
            raise _not_reached(address, error) from error
        yield


def _check_answers(address: str) -> None:
    """Raise ClusterError if nothing listens at an address. Ray would try for minutes."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not port.isdecimal():
        # An address such as auto: leave it to Ray.
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _not_reached(address, error) from error


@contextmanager
def _sigterm_preserved() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray installs its own, and exits with other codes."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        raise SystemExit(128 + signal.SIGTERM) from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _not_reached(address: str | None, error: Exception) -> ClusterError:
    message = _first_line(error)
    if "include dashboard" in message:
        return ClusterError("Ray's dashboard is not installed", hint="pip install 'ray[default]'")
    if address is None:
        return ClusterError(f"cannot start Ray on this machine: {message}", code="ray-failed")
    text = f"{error} {error.__cause__ or ''}"
    if "ray[client]" in text:
        return ClusterError(f"{address} needs Ray's client", hint="pip install 'ray[client]'")
    if "uthentication" in text or "InvalidAuthToken" in text:
        return ClusterError(
            f"the Ray cluster at {address} requires an authentication token",
            hint="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the cluster's token",
        )
    return ClusterError(
        f"no Ray cluster at {address}: {message}", hint="ray start --head starts one, ray status finds it"
    )


def _first_line(error: BaseException) -> str:
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return next(iter(message.strip().splitlines()), type(error).__name__)


@contextmanager
def silenced() -> Iterator[None]:
    """Keep the logs and prints of Ray, and the output of its C++ code, off the terminal.

    `sys.stderr` still reaches the terminal.
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
