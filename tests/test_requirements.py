"""The recorded versions in requirements/ agree with the ranges in pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
RANGES = [Requirement(line) for lines in [PROJECT["dependencies"], *EXTRAS] for line in lines if "genlm[" not in line]


def recorded(file: str, name: str, python: str) -> Version | None:
    """Return the version that a file records for a package on Linux with this Python, or None."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for line in (ROOT / "requirements" / file).read_text("utf-8").splitlines():
        if not re.match(r"[a-z0-9]", line):
            continue
        pin = Requirement(line)
        if canonicalize_name(pin.name) == canonicalize_name(name) and (
            pin.marker is None or pin.marker.evaluate(environment)
        ):
            (specifier,) = pin.specifier
            return Version(specifier.version)
    return None


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", ["lock.txt", "lowest.txt"])
def test_every_requirement_is_recorded_within_its_range(file: str, python: str) -> None:
    for requirement in RANGES:
        if applies(requirement, python):
            version = recorded(file, requirement.name, python)
            assert version is not None, f"{requirement.name} is not in {file}: run make lock"
            assert version in requirement.specifier, f"{file} has {requirement.name} {version}: run make lock"


def test_lowest_txt_has_exactly_the_lower_bounds() -> None:
    for requirement in RANGES:
        bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
        assert len(bounds) == 1, f"{requirement.name} needs a lower bound"
        lowest, python = recorded("lowest.txt", requirement.name, "3.10"), "3.10"
        if applies(requirement, python):
            assert lowest == Version(bounds[0]), f"{requirement.name}: no such release, or another package needs more"
