"""`made_by` and the model in results: versions, command, date and fingerprint."""

from __future__ import annotations

import html
import json
import shlex
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.batch import fingerprint_of
from support.driving import as_json, call

import genlm

COMMANDS = {
    "generate": ["generate", "Once", "--max-new-tokens", "2", "--seed", "7"],
    "next": ["next", "Once"],
    "next --steps": ["next", "Once", "--steps", "2"],
    "next --candidates": ["next", "Once", "--candidates", " fox, wolf"],
    "score": ["score", "Once"],
    "attention": ["attention", "Once"],
    "tokenize": ["tokenize", "Once"],
}
PAGES = ("generate", "score", "attention")


def check_made_by(made_by: dict[str, Any], command: str | None) -> None:
    date = datetime.fromisoformat(made_by.pop("date"))
    assert timedelta() <= datetime.now(timezone.utc) - date < timedelta(minutes=10)
    versions = {name: version(name) for name in ("torch", "transformers")}
    assert made_by == {"genlm": genlm.__version__, **versions, "command": command}


@pytest.mark.parametrize("name", COMMANDS)
def test_json_has_versions_command_date_and_model(tiny: Path, name: str) -> None:
    arguments = [*COMMANDS[name], "-m", str(tiny)]
    record = as_json(*arguments)
    check_made_by(record["made_by"], shlex.join(["genlm", *arguments, "--format", "json"]))
    assert record["model"]["name"] == str(tiny)
    if name != "tokenize":
        assert record["model"]["fingerprint"] == fingerprint_of(tiny)


def test_a_result_made_in_python_has_no_command(tiny: Path) -> None:
    made = genlm.load(str(tiny), device="cpu").generate("Once", max_new_tokens=1)
    check_made_by(made.to_dict()["made_by"], None)


@pytest.mark.parametrize("name", PAGES)
def test_the_footer_of_a_page_has_versions_command_model_and_seed(tiny: Path, tmp_path: Path, name: str) -> None:
    page = tmp_path / "<page>.html"
    arguments = [*COMMANDS[name], "-m", str(tiny), "--html", str(page), "-q"]
    assert call(*arguments).code == 0
    footer = html.unescape(page.read_text().split("<footer", 1)[1].split("</footer>")[0])
    versions = [f"{package} {version(package)}" for package in ("torch", "transformers")]
    seed = ["seed 7"] if name == "generate" else []
    command = shlex.join(["genlm", *arguments])
    for part in (f"genlm {genlm.__version__}", *versions, str(tiny), f"fingerprint {fingerprint_of(tiny)}", *seed):
        assert part in footer
    assert f"command: {command}" in footer
    assert "<page>" not in page.read_text()


@pytest.mark.parametrize("has_made_by", [True, False])
def test_results_with_and_without_made_by_can_be_replayed(tiny: Path, tmp_path: Path, has_made_by: bool) -> None:
    record = as_json(*COMMANDS["generate"], "-m", tiny)
    if not has_made_by:
        del record["made_by"]
    file = tmp_path / "result.json"
    file.write_text(json.dumps(record))
    done = call("generate", "--replay", file)
    assert (done.code, done.out) == (0, "the same: 1 completion, 2 tokens\n")
