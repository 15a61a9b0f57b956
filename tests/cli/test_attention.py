"""`genlm attention`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.driving import Terminal, as_json, call


def test_text_is_a_triangle_of_percentages(tiny: Path) -> None:
    done = call("attention", "fox fox", "-m", tiny, "--layer", "1", "--head", "2", "--check")
    title, columns, *rows = done.out.splitlines()
    assert title.startswith("layer 1 (of 0-1), head 2 (of 0-3)")
    size = len(columns.split())
    for number, row in enumerate(rows[:size]):
        weights = [int(weight) for weight in row.split()[2:]]
        assert len(weights) == number + 1
        assert sum(weights) == pytest.approx(100, abs=size / 2)
    found = re.search(r"largest difference from .*? ([0-9.e-]+);", " ".join(done.out.split()))
    assert found is not None
    assert float(found[1]) < 1e-5
    assert "above the diagonal 0" in " ".join(done.out.split())


@pytest.mark.parametrize("count", [1, 14, 15, 29, 30, 58, 59, 64])
def test_a_map_of_any_size_fits_80_columns(tiny: Path, count: int) -> None:
    done = call("attention", "o" * count, "-m", tiny)
    assert done.code == 0
    assert all(cell_len(line) <= 80 for line in done.out.splitlines())
    assert ("largest of 2 x 2 weights" in done.out) == (count > 60)


def test_json_has_all_heads_or_the_selected_one(tiny: Path) -> None:
    found = as_json("attention", "the fox", "-m", tiny)
    assert (found["num_layers"], found["num_heads"], len(found["attention"])) == (2, 4, 8)
    size = len(found["prompt_token_ids"])
    for head in found["attention"]:
        assert [sum(row) for row in head["weights"]] == pytest.approx([1] * size, abs=1e-5)
        assert all(weight == 0 for row, line in enumerate(head["weights"]) for weight in line[row + 1 :])
    (one,) = as_json("attention", "the fox", "-m", tiny, "--layer", "1", "--head", "3")["attention"]
    assert one == found["attention"][7]


def test_a_page_has_all_heads_while_text_shows_one(tiny: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = call("attention", "the fox", "-m", tiny, "--html", page)
    assert done.out.startswith("layer 0 (of 0-1), head 0 (of 0-3)")
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    assert len(data["heads"]) == 8


@pytest.mark.parametrize(("option", "most"), [("layer", 1), ("head", 3)])
def test_a_layer_or_head_out_of_range_is_an_error(tiny: Path, option: str, most: int) -> None:
    for value in (most + 1, -1):
        done = call("attention", "x", "-m", tiny, f"--{option}", str(value))
        assert (done.code, done.error()) == (2, f"the model has no {option} {value}")
        assert done.hint() == f"its {option}s are 0 to {most}"


def test_a_terminal_shows_the_map_in_colour(tiny: Path) -> None:
    with Terminal("attention", "fox", "-m", tiny, env={"COLORTERM": "truecolor"}) as terminal:
        assert terminal.end() == 0
    assert b"48;2;" in terminal.shown
