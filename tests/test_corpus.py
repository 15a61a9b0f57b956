"""Texts in, token ids out."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlm.errors import InputError
from genlm.tasks.corpus import END_OF_TEXT, encode_texts, find_texts, read_text, train_bpe

STORY = "Once upon a time a naïve fox met a 狐 in a café. " * 20


def test_a_folder_stands_for_its_texts_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in find_texts([tmp_path])] == ["a.txt", "b.txt"]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder: .*gone"):
        find_texts([tmp_path / "gone"])


def test_a_corpus_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no text files"):
        find_texts([tmp_path])


def test_invalid_utf8_is_reported_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fox \xff")
    with pytest.raises(InputError, match=r"bad\.txt: not valid UTF-8 at byte 4"):
        read_text(tmp_path / "bad.txt")


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = train_bpe([STORY], 300)
    strange = "  Ω\t🦊\r\n狼\x00 — not in the corpus"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange


def test_the_vocabulary_is_as_large_as_asked_for_and_holds_the_end_of_text() -> None:
    tokenizer = train_bpe([STORY], 280)
    assert tokenizer.get_vocab_size() == 280
    assert tokenizer.token_to_id(END_OF_TEXT) == 0


def test_each_text_stands_between_ends_of_text() -> None:
    tokenizer = train_bpe([STORY], 300)
    fox, king = tokenizer.encode("fox").ids, tokenizer.encode("king").ids
    assert encode_texts(tokenizer, ["fox", "king"]).tolist() == [0, *fox, 0, *king, 0]
