"""Settings and fixtures for every test."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.deprecations import Logger, ours_as_errors
from support.gpt2 import VARIANTS, save_gpt2

# The same examples every time, and no limit on a slow machine.
settings.register_profile("genlm", derandomize=True, database=None, deadline=None)
settings.load_profile("genlm")

# Tiny models run faster on one thread, especially on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell script starts background jobs with SIGINT ignored, and every process that the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests use neither the network nor the user's cache and settings.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = os.devnull
for name in ("GENLM_MODEL", "GENLM_DEBUG", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)

# Libraries create their loggers when they are imported, which is after this file.
logging.setLoggerClass(Logger)


# Each process runs whole files. The slowest files come first, so that no process starts one at the end.
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
    """Return the number of processes of `-n auto`: one more than cores, because the tests on Ray mostly wait."""
    # Each takes about a gigabyte of memory.
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
    """The folder of a tiny GPT-2 with random weights."""
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder of a variant in VARIANTS, created on first use."""
    root = tmp_path_factory.mktemp("variants")

    def make(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else save_gpt2(folder, **VARIANTS[name])

    return make


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "copied"))
