"""Downloads as a user sees them: the command, the real client, and a Hub on the loopback interface."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.driving import genlm
from support.hub_server import Faults, Hub, Repository, commit_of
from support.systems import needs_unix

from genlm.model.source import FIRST_ANSWER_S

NAME = "someone/tiny"
WEIGHTS = "model.safetensors"
MIB = 2**20
# How long a busy machine may take for the rest.
SLACK_S = 10.0
UNNEEDED = {
    "README.md": b"# Tiny",
    "pytorch_model.bin": b"pickled",
    "tf_model.h5": b"for TensorFlow",
    "onnx/model.onnx": b"for another runtime",
    "onnx/tokenizer.json": b"a copy",
    "original/tokenizer.model": b"in another format",
    "model.fp16.safetensors": b"a variant",
}
HINT = "hint: HF_ENDPOINT selects another Hub; the bundled model fable needs no download\n"

# Find a model as the command does, and print how it went. The client is imported first, so the time is that of the Hub.
FIND = """
import json, sys, time
import huggingface_hub.errors
from huggingface_hub import HfApi, hf_hub_download, logging, try_to_load_from_cache
from genlm.errors import GenlmError
from genlm.model.source import find_model
name, options = json.loads(sys.argv[1])
notices, began = [], time.perf_counter()
try:
    found = find_model(name, notify=notices.append, **options)
    report = {"source": found.source, "path": str(found.path), "revision": found.revision}
except GenlmError as error:
    report = {"error": str(error)}
print(json.dumps(report | {"notices": notices, "seconds": time.perf_counter() - began}))
"""


@dataclass
class User:
    """Someone with an own cache who uses models from a Hub."""

    env: dict[str, str]

    def generate(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        options = ("-s", "greedy", "--max-new-tokens", "4")
        return genlm("generate", "Once upon", *options, *arguments, env=self.env | env)

    def find(self, name: str | None = NAME, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        """Find a model without loading it."""
        command = [sys.executable, "-c", FIND, json.dumps([name, options])]
        environment = {**os.environ, **self.env, **(env or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.stderr == ""
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def user(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    for name in os.environ:
        if name.startswith(("HF_", "HUGGING")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return User({"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"})


@pytest.fixture(scope="session")
def files(tiny: Path) -> dict[str, bytes]:
    """The files that a Hub model needs."""
    return {path.name: path.read_bytes() for path in sorted(tiny.iterdir())}


@pytest.fixture
def published(hub: Hub, files: dict[str, bytes]) -> Repository:
    """The tiny model on the Hub, among files that genlm does not need."""
    hub.repositories[NAME] = Repository.of({**UNNEEDED, **files})
    return hub.repositories[NAME]


def on_terminal(run: Callable[[int], int]) -> str:
    """Return what `run` writes to a pseudo-terminal, whose file descriptor it is given."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        run(terminal)
        os.close(terminal)
        seen = b""
        while chunk := _read(controller):
            seen += chunk
    finally:
        os.close(controller)
    return seen.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_a_model_is_downloaded_once_and_then_loaded_from_the_cache(hub: Hub, user: User, published: Repository) -> None:
    first = user.generate("-m", NAME, "--format", "json", HF_TOKEN="hf_secret")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert (result["model"]["name"], result["model"]["source"]) == (NAME, "hub")
    assert result["model"]["revision"] == published.branches["main"]
    assert first.stderr.splitlines()[0] == f"downloading {NAME} from the Hub"
    assert len(first.stderr.splitlines()) == 2
    assert not set(hub.downloads()) & UNNEEDED.keys()
    assert sorted(hub.downloads()) == sorted(set(published.commits[result["model"]["revision"]]) - UNNEEDED.keys())
    assert hub.downloads()[-1] == WEIGHTS
    assert {asked.authorization for asked in hub.asked} == {"Bearer hf_secret"}

    requests = hub.requests
    again = user.generate("-m", NAME, "--format", "json", HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)["completions"] == result["completions"]
    assert "downloading" not in again.stderr
    found = user.find()
    assert (found["revision"], found["notices"]) == (result["model"]["revision"], [])
    assert hub.requests == requests


def test_a_terminal_shows_progress_on_stderr(user: User, published: Repository) -> None:
    def run(terminal: int) -> int:
        command = [sys.executable, "-c", FIND, json.dumps([NAME, {}])]
        environment = {**os.environ, **user.env, "COLUMNS": "80"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=terminal, timeout=120)
        assert json.loads(done.stdout)["source"] == "hub"
        return done.returncode

    shown = on_terminal(run)
    assert WEIGHTS in shown
    assert "100%" in shown


def test_a_quiet_command_shows_no_progress_even_on_a_terminal(hub: Hub, user: User, published: Repository) -> None:
    def run(terminal: int) -> int:
        command = [sys.executable, "-m", "genlm", "generate", "Once upon", "-m", NAME, "--max-new-tokens", "4", "-q"]
        environment = {**os.environ, **user.env, "COLUMNS": "80"}
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=terminal, timeout=120).returncode

    assert on_terminal(run) == ""
    assert WEIGHTS in hub.downloads()


def test_a_revision_is_a_branch_or_a_commit(hub: Hub, user: User, published: Repository) -> None:
    old = {**published.commits[published.branches["main"]], "config.json": b'{"model_type": "gpt2"}'}
    commit = commit_of(old)
    published.commits[commit] = old
    published.branches["refs/old"] = commit
    for revision in ("refs/old", commit):
        found = user.find(revision=revision)
        assert found["revision"] == commit
        assert contents(found["path"])["config.json"] == old["config.json"]
    assert user.find()["revision"] == published.branches["main"]


def test_all_files_come_from_one_commit_even_if_the_branch_moves(hub: Hub, user: User, published: Repository) -> None:
    before = published.branches["main"]
    newer = {**published.commits[before], WEIGHTS: b"newer"}
    published.commits[commit_of(newer)] = newer
    hub.faults.moves_to = commit_of(newer)
    found = user.find()
    assert found["revision"] == before
    assert contents(found["path"])[WEIGHTS] == published.commits[before][WEIGHTS]


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_an_interrupted_download_resumes(fault: str, hub: Hub, user: User, files: dict[str, bytes]) -> None:
    large = {**files, WEIGHTS: random.Random(0).randbytes(12 * MIB)}
    hub.repositories[NAME] = Repository.of(large)
    setattr(hub.faults, fault, {WEIGHTS: [11 * MIB]})
    found = user.find(env={"HF_HUB_DOWNLOAD_TIMEOUT": "1"})
    assert contents(found["path"]) == large
    # The client saves chunks of 10 MiB.
    assert [asked.first_byte for asked in hub.asked if asked.file == WEIGHTS] == [0, 10 * MIB]


def test_a_failed_download_is_an_error_and_the_next_run_resumes_it(
    hub: Hub, user: User, published: Repository, files: dict[str, bytes]
) -> None:
    hub.faults.always_cut = {WEIGHTS}
    broken = user.generate("-m", NAME)
    assert (broken.returncode, broken.stdout) == (1, "")
    notice, error, hint = broken.stderr.splitlines()
    assert notice == f"downloading {NAME} from the Hub"
    assert error.startswith(f"error: {NAME} is not in the cache, and the download failed (")
    assert hint + "\n" == HINT

    hub.faults, before = Faults(), len(hub.asked)
    assert contents(user.find()["path"]) == files
    assert [asked.file for asked in hub.asked[before:] if asked.file] == [WEIGHTS]


def test_a_cached_model_without_weights_is_completed(
    hub: Hub, user: User, published: Repository, files: dict[str, bytes]
) -> None:
    weights = Path(user.find()["path"]) / WEIGHTS
    weights.resolve().unlink()
    weights.unlink(missing_ok=True)
    assert user.find(env={"HF_HUB_OFFLINE": "1"})["error"] == f"{NAME} is not in the cache, and HF_HUB_OFFLINE is set"
    before = len(hub.asked)
    assert contents(user.find()["path"]) == files
    assert [asked.file for asked in hub.asked[before:] if asked.file] == [WEIGHTS]


def test_sharded_weights_are_downloaded_as_the_index_lists_them(hub: Hub, user: User, files: dict[str, bytes]) -> None:
    index = {"weight_map": {"a": "part-one.safetensors", "b": "part-two.safetensors", "c": "part-one.safetensors"}}
    weights = {"model.safetensors.index.json": json.dumps(index).encode()}
    weights |= {"part-one.safetensors": b"1", "part-two.safetensors": b"2"}
    small = {name: data for name, data in files.items() if name != WEIGHTS}
    hub.repositories[NAME] = Repository.of({**small, **weights, "part-three.safetensors": b"3"})
    assert contents(user.find()["path"]) == {**small, **weights}
    assert user.find(env={"HF_HUB_OFFLINE": "1"})["source"] == "hub"


def test_an_index_cannot_name_files_outside_the_repository(hub: Hub, user: User, files: dict[str, bytes]) -> None:
    index = json.dumps({"weight_map": {"a": "../../evil.safetensors"}}).encode()
    small = {name: data for name, data in files.items() if name != WEIGHTS}
    hub.repositories[NAME] = Repository.of({**small, "model.safetensors.index.json": index})
    assert "names '../../evil.safetensors', which is outside the model folder" in user.find()["error"]


def test_pickled_weights_are_downloaded_only_if_allowed(hub: Hub, user: User, files: dict[str, bytes]) -> None:
    small = {name: data for name, data in files.items() if name != WEIGHTS}
    hub.repositories[NAME] = Repository.of({**small, "pytorch_model.bin": b"pickled"})
    refused = user.generate("-m", NAME)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"error: {NAME} on the Hub has only pickled weights (pytorch_model.bin), which can run code when they are "
        "loaded\nhint: --allow-pickle loads them, if you trust their source\n"
    )
    assert hub.downloads() == []
    assert contents(user.find(allow_pickle=True)["path"]) == {**small, "pytorch_model.bin": b"pickled"}


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ({"config.json"}, "config.json"),
        ({"tokenizer.json"}, "a tokenizer"),
        ({WEIGHTS}, "model.safetensors"),
        ({"config.json", WEIGHTS}, "config.json and no model.safetensors"),
    ],
    ids=["config", "tokenizer", "weights", "config and weights"],
)
def test_nothing_is_downloaded_from_a_model_that_cannot_run(
    gone: set[str], missing: str, hub: Hub, user: User, files: dict[str, bytes]
) -> None:
    hub.repositories[NAME] = Repository.of({name: data for name, data in files.items() if name not in gone})
    report = user.find()
    assert report["error"] == f"genlm cannot run {NAME} from the Hub: it has no {missing}"
    assert hub.downloads() == []


def test_an_unknown_model(user: User) -> None:
    done = user.generate("-m", "someone/else")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: no model 'someone/else' on the Hub, or no access to it\n"
        "hint: check the name; for a private model set HF_TOKEN; a local folder needs its path\n"
    )


def test_an_unknown_revision(user: User, published: Repository) -> None:
    assert user.find(revision="nowhere")["error"] == f"{NAME} has no revision 'nowhere' on the Hub"


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, f"the Hub answered 401 for {NAME}"),
        (401, {"X-Error-Code": "RepoNotFound"}, f"no model '{NAME}' on the Hub, or no access to it"),
        (403, {}, f"the Hub answered 403 for {NAME}"),
        (404, {}, f"the Hub answered 404 for {NAME}"),
        (400, {}, f"the Hub answered 400 for {NAME}"),
        (429, {}, f"the Hub answered 429 for {NAME}"),
    ],
    ids=["a wrong token", "a private model", "forbidden", "some 404", "bad request", "too many requests"],
)
def test_http_errors_of_the_hub(
    status: int, headers: dict[str, str], message: str, hub: Hub, user: User, published: Repository
) -> None:
    hub.faults.refusal = (status, headers)
    assert user.find()["error"] == message
    assert len(hub.asked) == 1


def test_a_gated_model(hub: Hub, user: User, published: Repository) -> None:
    hub.faults.refusal_of_files = (403, {"X-Error-Code": "GatedRepo"})
    assert user.find()["error"] == f"{NAME} is a gated model"


def test_a_hub_that_fails(hub: Hub, user: User, published: Repository) -> None:
    hub.faults.refusal = (503, {})
    report = user.find()
    assert report["error"].startswith(f"{NAME} is not in the cache, and the Hub cannot be reached (Server error '503")
    assert len(hub.asked) == 1
    assert user.find(None)["source"] == "bundled"


def test_a_hub_that_never_answers_is_given_up_within_seconds(hub: Hub, user: User) -> None:
    hub.faults.silent = True
    with ThreadPoolExecutor() as both:
        runs = both.submit(user.generate, "-m", NAME), both.submit(user.find, None)
        named, unnamed = runs[0].result(), runs[1].result()
    assert (named.returncode, named.stdout) == (1, "")
    error, hint = named.stderr.splitlines(keepends=True)
    assert error.startswith(f"error: {NAME} is not in the cache, and the Hub cannot be reached (")
    assert hint == HINT

    assert unnamed["source"] == "bundled"
    assert unnamed["seconds"] < FIRST_ANSWER_S + SLACK_S
    assert len(unnamed["notices"]) == 1
    assert [asked.path for asked in hub.asked] == [f"/api/models/{NAME}"]


def test_without_a_name_or_a_hub_the_bundled_model_runs_with_one_notice(user: User) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = user.generate("--format", "json", HF_ENDPOINT=nobody)
        named = user.find("gpt2", env={"HF_ENDPOINT": nobody})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["source"] == "bundled"
    notice, _ = done.stderr.splitlines()
    assert notice.startswith("gpt2 is not in the cache and the Hub cannot be reached (")
    assert notice.endswith("): using the bundled model fable")
    assert "Connection refused" in notice
    assert named["error"].startswith("gpt2 is not in the cache, and the Hub cannot be reached (")


def test_a_hub_whose_name_does_not_resolve(user: User) -> None:
    report = user.find(env={"HF_ENDPOINT": "http://nowhere.invalid"})
    assert report["error"].startswith(f"{NAME} is not in the cache, and the Hub cannot be reached (")
    assert report["seconds"] < FIRST_ANSWER_S + SLACK_S


def test_no_request_is_made_offline(hub: Hub, user: User, published: Repository) -> None:
    done = user.generate("-m", NAME, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {NAME} is not in the cache, and HF_HUB_OFFLINE is set\n{HINT}"
    unnamed = user.find(None, env={"HF_HUB_OFFLINE": "1"})
    assert unnamed["notices"] == ["gpt2 is not in the cache and HF_HUB_OFFLINE is set: using the bundled model fable"]
    assert hub.requests == 0


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_cache_that_cannot_be_created(variable: str, user: User, published: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = user.generate("-m", NAME, **{variable: str(tmp_path / "file" / "cache")})
    assert (done.returncode, done.stdout) == (1, "")
    *_, error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: cannot save {NAME} in the cache: {tmp_path / 'file' / 'cache'}")
    assert error.endswith(": Not a directory")
    assert hint == "hint: set HF_HOME to a writable folder; the bundled model fable needs no download"


@needs_unix("folders have no permissions")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache(user: User, published: Repository, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    report = user.find()
    assert report["error"].startswith(f"cannot save {NAME} in the cache: {tmp_path / 'cache'}")
    assert report["error"].endswith(": Permission denied")


@pytest.mark.parametrize("page", [b"<html>Welcome to our hotel</html>", b"{}"])
def test_an_answer_that_does_not_come_from_a_hub(page: bytes, hub: Hub, user: User) -> None:
    hub.faults.page = page
    assert user.find()["error"] == f"{NAME} is not in the cache, and the answer does not come from a Hub"
