"""Settings and fixtures for every test."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.deprecations import Logger, ours_as_errors
from support.gpt2 import VARIANTS, save_gpt2

# Use the same examples every time, without a time limit for slow machines.
settings.register_profile("genlm", derandomize=True, database=None, deadline=None)
settings.load_profile("genlm")

# Tiny models run faster on one thread, the more so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A background job of a script ignores SIGINT, and so would every process that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests use neither the network nor the user's settings.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = os.devnull
for name in ("GENLM_MODEL", "GENLM_DEBUG", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)

# Loggers are made when libraries are imported, after this file.
logging.setLoggerClass(Logger)


# Test files are distributed over processes as wholes. The longest go first, so that none starts last.
LONGEST = (
    "test_ray",
    "test_batch_crash",
    "test_readme",
    "test_scheduler",
    "test_loop",
    "test_source_hub",
    "test_batch",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes `-n auto` starts: one more than there are cores because the tests on Ray mostly wait.

    Each takes about a gigabyte of memory.
    """
    return min((os.cpu_count() or 1) + 1, 4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        rank = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    with ours_as_errors():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    with ours_as_errors():
        return (yield)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny GPT-2 with random weights."""
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a name in VARIANTS to the folder of that model, which is saved once."""
    root = tmp_path_factory.mktemp("variants")

    def make(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else save_gpt2(folder, **VARIANTS[name])

    return make


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model's folder for a test to change."""
    import shutil

    return Path(shutil.copytree(tiny, tmp_path / "copied"))
