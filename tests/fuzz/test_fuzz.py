"""A few examples of every fuzz target, and tests of the contract itself. `make fuzz` runs many more examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from support.driving import Done

from fuzz.contract import check, check_result, count_documents
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
        (Done(143, "", ""), "exit code 143"),
        (Done(1, "", "error: unexpected KeyError: 'x'\n"), "unexpected KeyError"),
        (Done(1, "", "Traceback (most recent call last):\nerror: x\n"), "Traceback"),
        (Done(1, "", "error: out of memory\n"), "out of memory"),
        (Done(1, "", "error: \x1b[2J\n"), "stderr may act on a terminal"),
        (Done(1, "", "no reason\n"), "0 error lines"),
        (Done(2, "{}", "error: x\n"), "wrong usage, but stdout has '{}'"),
        (Done(0, "", "error: x\n"), "error: x"),
        (Done(1, '{"a": [1,', "error: x\n"), "not a whole JSON document"),
        (Done(0, '{"a": NaN}', ""), "NaN is not JSON"),
        (Done(0, "", ""), "0 JSON documents"),
        (Done(0, "{}\n{}\n", ""), "2 JSON documents"),
    ],
)
def test_a_result_that_breaks_the_contract_fails(done: Done, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_result(("score", "--format", "json"), done)


def test_ctrl_c_ends_the_fuzzing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.contract.call", lambda *arguments, stdin: Done(130, "", ""))
    with pytest.raises(KeyboardInterrupt):
        check(Case((("score", "Once"),)))


def test_documents_are_counted() -> None:
    assert count_documents("\n") == 0
    assert count_documents('{"a": 1}\n{"b": [2]}\n') == 2


@pytest.mark.parametrize("err", ["error: unexpected argument: x\n", "error: wrong\nhint: right\n"])
def test_an_error_of_one_line_keeps_the_contract(err: str) -> None:
    check_result(("score", "--format", "json"), Done(2, "", err))
