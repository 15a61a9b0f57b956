"""Fixtures for the tests of a batch on a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cluster import ROWS, make_plan

from genlm.tasks.batch.run import Plan


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    """A file of prompts, one of them bad."""
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"id": f"r{n}", "prompt": "The king " * (n + 1)}) for n in range(ROWS)]
    lines[5] = "{torn"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def plan(tiny: Path, prompt_file: Path, tmp_path: Path) -> Plan:
    """A plan for that file."""
    return make_plan(tiny, [prompt_file], tmp_path / "parts")
