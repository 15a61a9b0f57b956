"""What can be checked of the documentation."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("training/*.md")])


def words(page: str) -> list[str]:
    """What a help page says, without the frames and types that differ from one release of Typer to the next."""
    return re.findall(r"[^\s\u2500-\u257f]+", re.sub(r"<[a-z|]+>", "", page))


def test_the_command_reference_is_that_of_the_code() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))["reference"]()
    assert words((ROOT / "docs" / "commands.md").read_text("utf-8")) == words(written), "run `make docs`"


def test_the_table_of_strategies_is_that_of_the_code() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_strategies.py"))["page"]()
    assert (ROOT / "docs" / "strategies.md").read_text("utf-8") == written, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_task_that_a_page_names_is_in_the_makefile() -> None:
    tasks = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z]+)`", page.read_text("utf-8"))) <= tasks, page
