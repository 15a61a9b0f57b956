"""From the files of a corpus to batches."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from genlm.errors import InputError, UsageError
from genlm.tasks.train.data import NO_TARGET, SPARE, Batches, Documents, TextSource, Windows, read_texts
from genlm.tasks.train.settings import SMALL

LINE = "The fox met the king by the sea.\n"
IDS = torch.arange(103)


# Texts.


def source(folder: Path, corpus: str, valid: str | None = None, **settings: object) -> TextSource:
    (folder / "corpus.txt").write_text(corpus)
    if valid is not None:
        (folder / "valid.txt").write_text(valid)
    held_out = () if valid is None else (str(folder / "valid.txt"),)
    return TextSource((str(folder / "corpus.txt"),), held_out, **settings)  # type: ignore[arg-type]


def test_a_small_corpus_is_read_line_by_line(tmp_path: Path) -> None:
    texts = read_texts(source(tmp_path, "fox\r\n\nking\u2028\x0b!\n"), seed=0)
    assert texts.documents == ("fox", "king\u2028\x0b!")
    assert (texts.per, texts.is_small, texts.num_bytes) == ("line", True, 12)


def test_a_larger_corpus_is_read_file_by_file(tmp_path: Path) -> None:
    corpus = LINE * (SMALL // len(LINE) + 1)
    texts = read_texts(source(tmp_path, corpus), seed=0)
    assert texts.documents == (corpus,)
    assert not texts.is_small


def test_per_decides_what_a_document_is(tmp_path: Path) -> None:
    assert read_texts(source(tmp_path, "fox\nking\n", per="file"), seed=0).documents == ("fox\nking\n",)


def test_held_out_files_are_read_like_the_corpus(tmp_path: Path) -> None:
    assert read_texts(source(tmp_path, "fox\nking\n", "sea\nwood\n"), seed=0).held_out == ("sea", "wood")


@pytest.mark.parametrize("size", [20, SPARE - 1000])
def test_nothing_is_held_out_of_a_small_corpus(size: int, tmp_path: Path) -> None:
    assert read_texts(source(tmp_path, LINE * (size // len(LINE) + 1)), seed=0).held_out == ()


def test_the_end_of_a_long_text_is_held_out_from_a_line_break(tmp_path: Path) -> None:
    corpus = LINE * (SPARE // len(LINE) + 1)
    texts = read_texts(source(tmp_path, corpus), seed=0)
    assert texts.documents[0] + texts.held_out[0] == corpus
    assert texts.held_out[0].startswith("The fox")
    assert len(texts.held_out[0]) == pytest.approx(0.05 * len(corpus), rel=0.02)


def test_a_text_without_line_breaks_is_cut_anywhere(tmp_path: Path) -> None:
    texts = read_texts(source(tmp_path, "x" * 40, share=0.25), seed=0)
    assert (texts.documents, texts.held_out) == (("x" * 30,), ("x" * 10,))


def test_the_seed_chooses_which_of_many_documents_are_held_out(tmp_path: Path) -> None:
    corpus = "".join(f"king {number}\n" for number in range(100))
    splits = [read_texts(source(tmp_path, corpus, share=0.1), seed) for seed in (0, 0, 1)]
    assert len(splits[0].held_out) == 10
    assert sorted(splits[0].documents + splits[0].held_out) == sorted(corpus.splitlines())
    assert splits[0] == splits[1] != splits[2]


def test_different_texts_have_different_fingerprints(tmp_path: Path) -> None:
    prints = [
        read_texts(source(tmp_path, *texts), seed=0).fingerprint for texts in [("a", "b"), ("a", "b"), ("b", "a")]
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_held_out_file_must_not_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"valid\.txt: held out, but has the same contents as .*corpus\.txt"):
        read_texts(source(tmp_path, LINE, LINE), seed=0)
    (tmp_path / "valid.txt").unlink()
    twice = TextSource((str(tmp_path),), (str(tmp_path / "corpus.txt"),))
    with pytest.raises(InputError, match=r"corpus\.txt: both held out and trained on"):
        read_texts(twice, seed=0)


@pytest.mark.parametrize("corpus", ["", " \n\t\n"])
def test_a_corpus_without_text_is_refused(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the corpus is empty"):
        read_texts(source(tmp_path, corpus), seed=0)
    with pytest.raises(InputError, match="the held-out text is empty"):
        read_texts(source(tmp_path, LINE, corpus), seed=0)


def test_held_out_files_and_a_share_cannot_be_combined(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="held-out files and a share to hold out cannot be combined"):
        read_texts(source(tmp_path, LINE, "sea", share=0.1), seed=0)


def test_some_text_is_always_left_to_train_on(tmp_path: Path) -> None:
    texts = read_texts(source(tmp_path, LINE * 3, share=0.9), seed=0)
    assert (len(texts.documents), len(texts.held_out)) == (1, 2)
    with pytest.raises(InputError, match="too short to hold part of it out"):
        read_texts(source(tmp_path, "a fox", share=0.99), seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_invalid_share_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the share to hold out"):
        read_texts(source(tmp_path, LINE, share=share), seed=0)


# Rows and batches.


def test_an_epoch_shows_every_window_once() -> None:
    windows = Windows(IDS, context=10, seed=0).epoch(3)
    starts = sorted(int(window[0]) for window in windows)
    assert {len(window) for window in windows} == {11}
    assert [b - a for a, b in pairwise(starts)] == [10] * (len(starts) - 1)
    assert len(windows) in (9, 10)


def test_epochs_differ_in_order_and_offset() -> None:
    rows = Windows(IDS, context=10, seed=0)
    assert len({int(rows.epoch(number)[0][0]) % 10 for number in range(20)}) > 5
    assert [window.tolist() for window in rows.epoch(4)] == [window.tolist() for window in rows.epoch(4)]


@pytest.mark.parametrize("length", [2, 10, 11, 12])
def test_a_corpus_no_longer_than_the_context_is_one_row(length: int) -> None:
    (row,) = Windows(IDS[:length], context=10, seed=0).epoch(0)
    assert len(row) in (length, 11)


def test_a_document_is_a_row_with_and_without_an_end_before_it() -> None:
    rows = Documents([[5, 6], [7]], end=0, context=10, seed=0).epoch(0)
    assert sorted(row.tolist() for row in rows) == [[0, 5, 6, 0], [0, 7, 0], [5, 6, 0], [7, 0]]


def test_a_long_document_is_cut_without_losing_targets() -> None:
    rows = Documents([[1, 2, 3, 4, 5]], end=0, context=3, seed=0).epoch(0)
    assert sorted(row.tolist() for row in rows) == [[0, 1, 2, 3], [1, 2, 3, 4], [3, 4, 5, 0], [4, 5, 0]]


def test_the_entropy_of_documents_that_differ_in_one_token() -> None:
    rows = Documents([[1, 2, 3], [1, 2, 4], [1, 2, 5]], end=0, context=10, seed=0)
    # Six rows each choose one of three tokens; rows with an end before the document have one target more.
    assert rows.entropy() == pytest.approx(6 * math.log(3) / (3 * 4 + 3 * 3))


def test_the_entropy_of_one_document_is_zero() -> None:
    assert Documents([[1, 2, 1, 3]], end=0, context=10, seed=0).entropy() == 0


def test_short_rows_of_a_batch_are_padded_and_have_no_targets_there() -> None:
    inputs, targets = Batches(Documents([[5, 6, 7]], end=0, context=10, seed=0), 2).take()
    assert sorted(inputs.tolist()) == [[0, 5, 6, 7], [5, 6, 7, 0]]
    assert sorted(targets.tolist()) == [[5, 6, 7, 0], [6, 7, 0, NO_TARGET]]


def test_a_batch_has_no_document_twice() -> None:
    inputs, _ = Batches(Documents([[5], [6], [7]], end=0, context=10, seed=0), 64).take()
    assert len(inputs) == 6


def test_batches_continue_from_their_position() -> None:
    batches = Batches(Windows(IDS, context=10, seed=0), 4)
    for _ in range(6):
        batches.take()
    later = Batches(Windows(IDS, context=10, seed=0), 4, batches.epoch, batches.at)
    for _ in range(6):
        assert torch.equal(later.take()[0], batches.take()[0])
