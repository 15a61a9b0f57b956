"""A connection to Ray, and a batch that runs on it, seen through a fake Ray."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from genlm.cli.errors import hint_of
from genlm.errors import ClusterError, UsageError
from genlm.formats.folder import HELD
from genlm.records.batch import ClusterState
from genlm.tasks.cluster.session import ClusterRun, choose_resources, connected
from genlm.tasks.cluster.worker import Resources


class TestResources:
    def resources(
        self, has: dict[str, float], address: str | None = "auto", machines: int = 1, **asked: float
    ) -> Resources:
        """Return what workers get from a cluster that has these resources."""
        nodes = [{"Alive": True}] * machines + [{"Alive": False}]
        ray = SimpleNamespace(cluster_resources=lambda: has, nodes=lambda: nodes)
        with mock.patch.dict(sys.modules, ray=ray):
            return choose_resources(address, **{"workers": None, "cpus": None, "gpus": None, **asked})

    @pytest.mark.parametrize(
        ("has", "asked", "given"),
        [
            ({"CPU": 8.0}, {}, Resources(1, 8.0)),
            ({"CPU": 8.0}, {"workers": 3}, Resources(3, 2.0)),
            ({"CPU": 8.0}, {"cpus": 2.0}, Resources(4, 2.0)),
            ({"CPU": 64.0, "GPU": 8.0}, {}, Resources(8, 1.0, 1.0)),
            ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 0.5}, Resources(16, 1.0, 0.5)),
            ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 0.0, "workers": 4}, Resources(4, 16.0, 0.0)),
        ],
    )
    def test_the_defaults_fit_the_cluster(
        self, has: dict[str, float], asked: dict[str, float], given: Resources
    ) -> None:
        assert self.resources(has, **asked) == given

    def test_machines_without_gpus_get_a_worker_each(self) -> None:
        assert self.resources({"CPU": 12.0}, machines=3) == Resources(3, 4.0)

    def test_more_than_this_machine_has_is_refused(self) -> None:
        """Ray would wait forever."""
        with pytest.raises(UsageError, match="3 workers with 1 CPUs and 0 GPUs each are more than this machine has"):
            self.resources({"CPU": 2.0}, address=None, workers=3, cpus=1.0)

    @pytest.mark.parametrize(
        ("address", "raised", "message", "hint"),
        [
            (None, "no memory", "cannot start Ray on this machine: no memory", "--verbose"),
            (
                None,
                "Cannot include dashboard with missing packages.",
                "Ray's dashboard is not installed",
                "ray[default]",
            ),
            ("h:1", "gone", "no Ray cluster at h:1: gone", "ray start --head"),
            ("ray://h:1", "needs `ray[client]`", "ray://h:1 needs Ray's client", "pip install 'ray[client]'"),
            (
                "h:1",
                "RPC error: InvalidAuthToken",
                "the Ray cluster at h:1 requires an authentication token",
                "RAY_AUTH_MODE=token",
            ),
        ],
    )
    def test_a_cluster_that_cannot_be_reached(self, address: str | None, raised: str, message: str, hint: str) -> None:
        def init(**_: object) -> None:
            raise ConnectionError(raised)

        with fake_ray(init), pytest.raises(ClusterError) as caught, connected(address):
            pass
        assert str(caught.value) == message
        assert hint in (hint_of(caught.value) or "")

    @pytest.mark.parametrize("scheme", ["", "ray://"])
    def test_an_address_where_nothing_listens_is_reported_at_once(self, scheme: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
            ray = SimpleNamespace(init=pytest.fail)
            with (
                mock.patch.dict(sys.modules, ray=ray),
                pytest.raises(ClusterError, match=f"no Ray cluster at {address}: Connection refused"),
                connected(address),
            ):
                pass

    def test_sigterm_during_the_start_ends_the_program_as_usual(self) -> None:
        def init(**_: object) -> None:
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            signal.raise_signal(signal.SIGTERM)

        before = signal.getsignal(signal.SIGTERM)
        with fake_ray(init), pytest.raises(SystemExit, match="143"), connected("h:1"):
            pass
        assert signal.getsignal(signal.SIGTERM) is before

    def test_the_sigterm_handler_of_ray_is_not_kept(self) -> None:
        def init(**_: object) -> None:
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

        before = signal.getsignal(signal.SIGTERM)
        with fake_ray(init), connected("h:1"):
            assert signal.getsignal(signal.SIGTERM) is before


@contextmanager
def fake_ray(init: Callable[..., None]) -> Iterator[None]:
    """Replace Ray by one that starts with `init`, and accept connections at every address."""
    ray = SimpleNamespace(init=init, shutdown=lambda: None)
    with mock.patch.dict(sys.modules, ray=ray), mock.patch("socket.create_connection"):
        yield


class TestTemporaryFolders:
    """The folders of Rays on this machine."""

    @pytest.fixture(autouse=True)
    def ray(self, tmp_path: Path) -> Iterator[None]:
        ray = SimpleNamespace(init=lambda **_: None, shutdown=lambda: None)
        with (
            mock.patch.dict(sys.modules, ray=ray),
            mock.patch("genlm.tasks.cluster.session.SHORT_TMP", str(tmp_path)),
        ):
            yield

    def test_a_folder_is_removed_with_its_command(self, tmp_path: Path) -> None:
        with connected(None):
            assert len(list(tmp_path.iterdir())) == 1
        assert list(tmp_path.iterdir()) == []

    def test_the_folder_of_a_killed_command_is_removed_by_the_next(self, tmp_path: Path) -> None:
        left = tmp_path / "genlm-ray-killed"
        (left / "session").mkdir(parents=True)
        (left / HELD).touch()
        with connected(None):
            assert not left.exists()

    def test_the_folder_of_a_running_command_stays(self, tmp_path: Path) -> None:
        with connected(None):
            (first,) = tmp_path.iterdir()
            with connected(None):
                assert first.exists()

    def test_a_folder_of_something_else_stays(self, tmp_path: Path) -> None:
        (tmp_path / "genlm-ray-other").mkdir()
        with connected(None):
            pass
        assert (tmp_path / "genlm-ray-other").exists()


class Died(Exception):
    """A fake RayError, which Ray also raises for a dead actor."""


class Unavailable(Died):
    """A fake ActorUnavailableError."""


class TestClusterRun:
    """A running batch, seen through a Ray whose answers are values to return or errors to raise."""

    STATE = ClusterState(10, 5, 5, 50, 1.0, 2, 2, [])

    @pytest.fixture(autouse=True)
    def ray(self) -> Iterator[None]:
        def get(answer: object) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

        errors = SimpleNamespace(RayError=Died, ActorUnavailableError=Unavailable)
        ray = SimpleNamespace(get=get, wait=lambda answers, timeout: (answers, []), exceptions=errors)
        with (
            mock.patch.dict(sys.modules, {"ray": ray, "ray.exceptions": errors}),
            mock.patch("genlm.tasks.cluster.session.POLL_S", 0.0),
        ):
            yield

    def start(self, **answers: list[object]) -> ClusterRun:
        """Return a run whose coordinator gives these answers, one after another, by method."""

        def method(given: list[object]) -> SimpleNamespace:
            left = iter(given)
            return SimpleNamespace(remote=lambda *_: next(left))

        coordinator = SimpleNamespace(**{name: method(given) for name, given in answers.items()})
        return ClusterRun(coordinator, mock.sentinel.plan, mock.sentinel.resources)

    def test_a_coordinator_out_of_reach_is_asked_again(self) -> None:
        run = self.start(run=["the outcome"], look=[Unavailable(), Unavailable(), self.STATE])
        assert run.look() == self.STATE

    def test_a_coordinator_that_stays_out_of_reach_is_lost(self) -> None:
        run = self.start(run=["the outcome"], look=[Unavailable("no route")] * 3)
        with (
            mock.patch("genlm.tasks.cluster.session.UNREACHED_S", -1.0),
            pytest.raises(ClusterError, match="lost the cluster: no route") as caught,
        ):
            run.look()
        assert hint_of(caught.value) == "--resume continues"

    def test_a_dead_coordinator_is_lost(self) -> None:
        run = self.start(run=[Died("it is dead")], look=[Died("it is dead")])
        with pytest.raises(ClusterError, match="lost the cluster: it is dead"):
            run.look()
        assert run.wait()
        with pytest.raises(ClusterError, match="lost the cluster: it is dead"):
            run.outcome()

    def test_a_lost_connection_does_not_end_the_batch(self) -> None:
        run = self.start(run=[Unavailable()], outcome=[Unavailable(), "the outcome"])
        assert [run.wait() for _ in range(3)] == [False, False, True]
        assert run.outcome() == "the outcome"
