"""Results that were saved as JSON, read again without a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from genlm.errors import InputError, UsageError
from genlm.records.compare import StrategyComparison
from genlm.records.generation import Generation
from genlm.records.serialize import parse

T = TypeVar("T")


def read_comparison(path: Path) -> StrategyComparison:
    """Return the comparison that `genlm compare --format json` wrote. Raise InputError if the file holds none."""
    return _read(path, StrategyComparison.from_dict, "comparison")


def read_generation(path: Path) -> Generation:
    """Return the result that `genlm generate --format json` wrote. Raise InputError if the file holds none."""
    return _read(path, Generation.from_dict, "result")


def _read(path: Path, restore: Callable[[Any], T], what: str) -> T:
    try:
        values = parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    try:
        return restore(values)
    except (ValueError, UsageError) as error:
        raise InputError(f"{path}: not a saved {what}: {error}", code=f"not-a-{what}") from error
