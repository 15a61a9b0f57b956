"""The ledger: which rows are done and which are left, in constant memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from genlm.records.batch import BatchCounts
from genlm.tasks.batch.ledger import InputEntry, Ledger, OutputEntry, open_ledger


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with open_ledger() as ledger:
        yield ledger


def entries(*ids: str) -> Iterator[InputEntry]:
    return (InputEntry(position, id, None, None, None, b"fox") for position, id in enumerate(ids))


def written(place: int, id: str, *, failed: bool = False) -> OutputEntry:
    return OutputEntry(place, 10, failed, 0, "7", "50", b"fox", id)


def test_rows_with_and_without_a_record(ledger: Ledger) -> None:
    ledger.fill(entries("a", "b", "c", "d"))
    assert ledger.counts() == BatchCounts(4, 0, 0)
    assert ledger.note([written(0, "c"), written(10, "a", failed=True)]) == 0
    assert ledger.counts() == BatchCounts(4, 2, 1)
    assert list(ledger.left()) == [False, True, False, True]
    assert list(ledger.records(by_position=True)) == [(10, 10), (0, 10)]
    assert list(ledger.records(by_position=False)) == [(0, 10), (10, 10)]
    ledger.forget(failed=False, changed=True)
    assert ledger.counts() == BatchCounts(4, 2, 1)
    ledger.forget(failed=True, changed=False)
    assert list(ledger.left()) == [True, True, False, True]
    assert ledger.counts() == BatchCounts(4, 1, 0)


def test_records_of_changed_prompts_can_be_forgotten(ledger: Ledger) -> None:
    ledger.fill(entries("a", "b", "c", "d"))
    ledger.note(written(0, id)._replace(prompt=prompt) for id, prompt in (("d", None), ("b", b"wolf"), ("a", b"fox")))
    assert ledger.changed_prompts(5) == (2, ["b", "d"])
    assert ledger.changed_prompts(1) == (2, ["b"])
    ledger.forget(failed=True, changed=False)
    assert ledger.counts() == BatchCounts(4, 3, 0)
    ledger.forget(failed=False, changed=True)
    assert list(ledger.left()) == [False, True, True, True]
    assert ledger.changed_prompts(5) == (0, [])


def test_of_several_records_the_last_counts(ledger: Ledger) -> None:
    ledger.fill(entries("a"))
    ledger.note([written(0, "a", failed=True), written(10, "a")])
    assert ledger.counts() == BatchCounts(1, 1, 0)
    assert list(ledger.records(by_position=True)) == [(10, 10)]


def test_records_of_no_row_are_counted(ledger: Ledger) -> None:
    ledger.fill(entries("a"))
    assert ledger.note([written(0, "x"), written(10, "a"), written(20, "y")]) == 2


def test_the_first_id_that_two_rows_have(ledger: Ledger) -> None:
    ledger.fill(entries("a", "b", "c", "c", "b", "b"))
    assert ledger.duplicate() == ("b", 1, 4)


def test_no_rows_at_all(ledger: Ledger) -> None:
    ledger.fill([])
    assert ledger.counts() == BatchCounts(0, 0, 0)
    assert ledger.duplicate() is None
    assert list(ledger.left()) == []


def test_memory_stays_flat_however_many_rows_there_are() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        with open_ledger() as ledger:
            ledger.fill(InputEntry(position, f"row {position}", None, None, None) for position in range(count))
            assert ledger.note(written(10 * position, f"row {position}") for position in range(count)) == 0
            assert not any(ledger.left())
            assert sum(size for _, size in ledger.records(by_position=True)) == 10 * count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(40_000) < 1.2 * peak(10_000)
