"""The texts of a run: documents, and what is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlm.errors import InputError, UsageError
from genlm.tasks.train.data import SPARE, TextSource, read_texts
from genlm.tasks.train.settings import SMALL

LINE = "The fox met the king by the sea.\n"


def source(folder: Path, corpus: str, valid: str | None = None, **settings: object) -> TextSource:
    (folder / "corpus.txt").write_text(corpus)
    if valid is not None:
        (folder / "valid.txt").write_text(valid)
    held_out = () if valid is None else (str(folder / "valid.txt"),)
    return TextSource((str(folder / "corpus.txt"),), held_out, **settings)  # type: ignore[arg-type]


def test_a_small_corpus_is_taken_line_by_line(tmp_path: Path) -> None:
    texts = read_texts(source(tmp_path, "fox\r\n\nking\u2028\x0b!\n"), seed=0)
    assert texts.documents == ("fox", "king\u2028\x0b!")
    assert (texts.per, texts.is_small, texts.num_bytes) == ("line", True, 12)


def test_a_larger_one_file_by_file(tmp_path: Path) -> None:
    corpus = LINE * (SMALL // len(LINE) + 1)
    texts = read_texts(source(tmp_path, corpus), seed=0)
    assert texts.documents == (corpus,)
    assert not texts.is_small


def test_a_user_may_say_what_a_document_is(tmp_path: Path) -> None:
    assert read_texts(source(tmp_path, "fox\nking\n", per="file"), seed=0).documents == ("fox\nking\n",)


def test_held_out_files_are_taken_as_the_corpus_is(tmp_path: Path) -> None:
    assert read_texts(source(tmp_path, "fox\nking\n", "sea\nwood\n"), seed=0).held_out == ("sea", "wood")


@pytest.mark.parametrize("size", [20, SPARE - 1000])
def test_a_corpus_with_nothing_to_spare_holds_nothing_out(size: int, tmp_path: Path) -> None:
    assert read_texts(source(tmp_path, LINE * (size // len(LINE) + 1)), seed=0).held_out == ()


def test_the_end_of_a_long_text_is_held_out_from_a_new_line_on(tmp_path: Path) -> None:
    corpus = LINE * (SPARE // len(LINE) + 1)
    texts = read_texts(source(tmp_path, corpus), seed=0)
    assert texts.documents[0] + texts.held_out[0] == corpus
    assert texts.held_out[0].startswith("The fox")
    assert len(texts.held_out[0]) == pytest.approx(0.05 * len(corpus), rel=0.02)


def test_a_text_without_lines_is_cut_all_the_same(tmp_path: Path) -> None:
    texts = read_texts(source(tmp_path, "x" * 40, share=0.25), seed=0)
    assert (texts.documents, texts.held_out) == (("x" * 30,), ("x" * 10,))


def test_of_many_documents_whole_ones_are_held_out_as_the_seed_decides(tmp_path: Path) -> None:
    corpus = "".join(f"king {number}\n" for number in range(100))
    splits = [read_texts(source(tmp_path, corpus, share=0.1), seed) for seed in (0, 0, 1)]
    assert len(splits[0].held_out) == 10
    assert sorted(splits[0].documents + splits[0].held_out) == sorted(corpus.splitlines())
    assert splits[0] == splits[1] != splits[2]


def test_a_fingerprint_tells_texts_apart(tmp_path: Path) -> None:
    prints = [
        read_texts(source(tmp_path, *texts), seed=0).fingerprint for texts in [("a", "b"), ("a", "b"), ("b", "a")]
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_file_that_is_held_out_and_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"valid\.txt: held out, and the same as .*corpus\.txt, trained on"):
        read_texts(source(tmp_path, LINE, LINE), seed=0)
    (tmp_path / "valid.txt").unlink()
    twice = TextSource((str(tmp_path),), (str(tmp_path / "corpus.txt"),))
    with pytest.raises(InputError, match=r"corpus\.txt: held out, and trained on, too"):
        read_texts(twice, seed=0)


@pytest.mark.parametrize("corpus", ["", " \n\t\n"])
def test_a_corpus_without_text_is_refused(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the corpus is empty"):
        read_texts(source(tmp_path, corpus), seed=0)
    with pytest.raises(InputError, match="the held-out text is empty"):
        read_texts(source(tmp_path, LINE, corpus), seed=0)


def test_held_out_text_is_named_or_taken_from_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="held-out files and a share to hold out cannot be combined"):
        read_texts(source(tmp_path, LINE, "sea", share=0.1), seed=0)


def test_something_is_left_to_train_on(tmp_path: Path) -> None:
    texts = read_texts(source(tmp_path, LINE * 3, share=0.9), seed=0)
    assert (len(texts.documents), len(texts.held_out)) == (1, 2)
    with pytest.raises(InputError, match="too short to hold part of it out"):
        read_texts(source(tmp_path, "a fox", share=0.99), seed=0)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_less_than_all(share: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the share to hold out"):
        read_texts(source(tmp_path, LINE, share=share), seed=0)
