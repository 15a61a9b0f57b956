"""The docs: generated pages are up to date, and links and make tasks exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("training/*.md")])


def test_the_generated_pages_are_up_to_date() -> None:
    for name, function in (("commands", "reference"), ("strategies", "page")):
        generated = runpy.run_path(str(ROOT / "docs" / f"write_{name}.py"))[function]()
        assert (ROOT / "docs" / f"{name}.md").read_text("utf-8") == generated, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_are_not_broken(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_task_in_the_docs_exists() -> None:
    tasks = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z]+)`", page.read_text("utf-8"))) <= tasks, page
