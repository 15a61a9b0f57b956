"""Tokenizers trained on a corpus, and existing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlm.errors import InputError, UsageError
from genlm.model.tokenizer import END_OF_TEXT
from genlm.tasks.train.tokenizers import concatenate, encode, find_tokenizer, largest_id, make_tokenizer

STORY = ["Once upon a time a naïve fox met a 狐 in a café.\r\nA café, once!", "我喜欢看电影。", "我喜欢听音乐。"]
KINDS = ("bpe", "word", "char")
MADE = {kind: make_tokenizer(kind, STORY, 600) for kind in KINDS}


def pieces(tokenizer: Any, text: str) -> list[str]:
    return [tokenizer.decode([id]) for id in tokenizer.encode(text).ids]


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text())
def test_every_text_round_trips(kind: str, text: str) -> None:
    assert MADE[kind].decode(MADE[kind].encode(text).ids, skip_special_tokens=False) == text


def test_a_word_includes_the_space_before_it_and_a_chinese_character_is_a_word() -> None:
    assert pieces(MADE["word"], "a naïve café.\r\nA café, 我喜") == [
        *("a", " naïve", " café", ".", "\r\n", "A", " café", ",", " ", "我", "喜")
    ]


def test_a_character_of_several_bytes_is_one_token() -> None:
    assert pieces(MADE["char"], "naïve 狐\n") == list("naïve 狐\n")


def test_a_text_that_occurs_once_does_not_become_one_token() -> None:
    assert pieces(MADE["bpe"], "我喜欢")[0] == "我喜欢"
    assert len(pieces(MADE["bpe"], "看电影")) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_has_at_most_the_requested_size(kind: str) -> None:
    tokenizer = make_tokenizer(kind, STORY, 262)
    assert tokenizer.get_vocab_size() == largest_id(tokenizer) + 1 == 262
    assert tokenizer.token_to_id(END_OF_TEXT) == 0


def test_the_most_frequent_words_are_kept() -> None:
    tokenizer = make_tokenizer("word", ["fox fox king", " fox fox fox"], 258)
    assert pieces(tokenizer, " fox") == [" fox"]
    assert len(pieces(tokenizer, "king")) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_must_have_room_for_every_byte(kind: str) -> None:
    with pytest.raises(UsageError, match="vocab_size must be 257 or more"):
        make_tokenizer(kind, STORY, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_same_in_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from genlm.tasks.train.folder import save_tokenizer

    save_tokenizer(MADE[kind], END_OF_TEXT, 64, tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    strange = "  Ω\t🦊\r\n狼 — 我喜欢 once"
    assert stock(strange)["input_ids"] == MADE[kind].encode(strange).ids
    assert stock.decode(stock(strange)["input_ids"]) == strange
    assert stock.eos_token_id == 0


def test_an_existing_tokenizer_keeps_its_end_of_text(tiny: Path, tmp_path: Path) -> None:
    from_model, end = find_tokenizer(str(tiny), lambda _: None)
    assert end == END_OF_TEXT
    from_file, end = find_tokenizer(str(tiny / "tokenizer.json"), lambda _: None)
    assert end == END_OF_TEXT
    assert from_file.encode("the fox").ids == from_model.encode("the fox").ids


def test_an_end_of_text_is_added_to_a_tokenizer_without_one(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "bare.json"))
    tokenizer, end = find_tokenizer(str(tmp_path / "bare.json"), lambda _: None)
    assert (end, tokenizer.token_to_id(end)) == (END_OF_TEXT, 2)


def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(InputError, match=r"no\.json: not a tokenizer"):
        find_tokenizer(str(tmp_path / "no.json"), lambda _: None)


def test_there_is_an_end_of_text_around_each_text() -> None:
    fox, king = encode(MADE["bpe"], ["fox", "king"])
    assert concatenate([fox, king], 0).tolist() == [0, *fox, 0, *king, 0]
