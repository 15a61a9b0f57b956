"""The rows that a model is trained on, and their order."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from genlm.tasks.train.data import NO_TARGET, Batches, Documents, Windows

IDS = torch.arange(103)


def test_an_epoch_shows_every_window_once() -> None:
    windows = Windows(IDS, context=10, seed=0).epoch(3)
    starts = sorted(int(window[0]) for window in windows)
    assert {len(window) for window in windows} == {11}
    assert [b - a for a, b in pairwise(starts)] == [10] * (len(starts) - 1)
    assert len(windows) in (9, 10)


def test_epochs_differ_in_order_and_in_where_they_cut() -> None:
    rows = Windows(IDS, context=10, seed=0)
    assert len({int(rows.epoch(number)[0][0]) % 10 for number in range(20)}) > 5
    assert [window.tolist() for window in rows.epoch(4)] == [window.tolist() for window in rows.epoch(4)]


@pytest.mark.parametrize("length", [2, 10, 11, 12])
def test_a_corpus_no_longer_than_the_context_is_one_row(length: int) -> None:
    (row,) = Windows(IDS[:length], context=10, seed=0).epoch(0)
    assert len(row) in (length, 11)


def test_a_document_stands_with_and_without_an_end_before_it() -> None:
    rows = Documents([[5, 6], [7]], end=0, context=10, seed=0).epoch(0)
    assert sorted(row.tolist() for row in rows) == [[0, 5, 6, 0], [0, 7, 0], [5, 6, 0], [7, 0]]


def test_a_document_beyond_the_context_is_cut_and_loses_no_target() -> None:
    rows = Documents([[1, 2, 3, 4, 5]], end=0, context=3, seed=0).epoch(0)
    assert sorted(row.tolist() for row in rows) == [[0, 1, 2, 3], [1, 2, 3, 4], [3, 4, 5, 0], [4, 5, 0]]


def test_the_entropy_of_documents_that_differ_in_one_place_is_that_of_the_choice() -> None:
    rows = Documents([[1, 2, 3], [1, 2, 4], [1, 2, 5]], end=0, context=10, seed=0)
    # Six rows choose one of three once; an end before a document makes one more token to predict.
    assert rows.entropy() == pytest.approx(6 * math.log(3) / (3 * 4 + 3 * 3))


def test_one_document_has_no_entropy() -> None:
    assert Documents([[1, 2, 1, 3]], end=0, context=10, seed=0).entropy() == 0


def test_a_batch_pads_short_rows_where_nothing_is_to_be_predicted() -> None:
    inputs, targets = Batches(Documents([[5, 6, 7]], end=0, context=10, seed=0), 2).take()
    assert sorted(inputs.tolist()) == [[0, 5, 6, 7], [5, 6, 7, 0]]
    assert sorted(targets.tolist()) == [[5, 6, 7, 0], [6, 7, 0, NO_TARGET]]


def test_fewer_documents_than_a_batch_are_each_in_it_once() -> None:
    inputs, _ = Batches(Documents([[5], [6], [7]], end=0, context=10, seed=0), 64).take()
    assert len(inputs) == 6


def test_batches_go_on_from_their_place() -> None:
    batches = Batches(Windows(IDS, context=10, seed=0), 4)
    for _ in range(6):
        batches.take()
    later = Batches(Windows(IDS, context=10, seed=0), 4, batches.epoch, batches.at)
    for _ in range(6):
        assert torch.equal(later.take()[0], batches.take()[0])
