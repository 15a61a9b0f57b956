"""A few examples of every fuzz target, and proof that the contract is checked. `make fuzz` runs many more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support.driving import Done

from fuzz.contract import check, check_documents, check_result
from fuzz.targets import TARGETS, Case, Fixtures


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_never_breaks_the_contract(name: str, tiny: Path, tmp_path: Path) -> None:
    @settings(max_examples=8, suppress_health_check=list(HealthCheck))
    @given(TARGETS[name](Fixtures(tiny, tmp_path)))
    def examine(case: Case) -> None:
        check(case)

    examine()


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (Done(7, "", ""), "exit code 7"),
        (Done(1, "", "error: unexpected KeyError: 'x'\n"), "unexpected KeyError"),
        (Done(1, "", "Traceback (most recent call last):\nerror: x\n"), "Traceback"),
        (Done(1, "", "error: out of memory\n"), "out of memory"),
        (Done(1, "", "error: \x1b[2J\n"), "stderr may act on a terminal"),
        (Done(1, "", "no reason\n"), "0 error lines"),
        (Done(0, "", "error: x\n"), "error: x"),
        (Done(1, '{"a": [1,', "error: x\n"), "not a whole JSON document"),
        (Done(0, '{"a": NaN}', ""), "NaN is not JSON"),
    ],
)
def test_a_broken_contract_is_noticed(done: Done, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_result(("score", "--format", "json"), done)


def test_whole_documents_are_accepted() -> None:
    check_documents("")
    check_documents('{"a": 1}\n{"b": [2]}\n')
