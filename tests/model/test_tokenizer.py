"""Tokenizers: the ids of transformers, exact text, and damaged files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.gpt2 import TEXT, edit_json
from support.models import END, save_three_words

import genlm
from genlm.errors import InputError, ModelError
from genlm.model.tokenizer import load_tokenizer, names_hold_tokenizer

TEXTS = [
    "Once upon a time",
    " there  were\n\nthree\tsons. ",
    "“Who goes there?” — naïve 狐 🦊\u200d🔥",
    "a\x00b\x1b[31m\r\n",
    f"The end{END}Once{END}",
    "They'll've won't 1,024 <|end of text|>",
]


@pytest.fixture(params=["tokenizer.json", "vocab.json and merges.txt"])
def folder(request: pytest.FixtureRequest, copied: Path) -> Path:
    """A GPT-2 folder with its tokenizer in the current and in the first format."""
    return copied if request.param == "tokenizer.json" else to_first_format(copied)


def to_first_format(folder: Path) -> Path:
    """Replace a tokenizer by `vocab.json` and `merges.txt`, as in the first GPT-2 folders."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    for path in folder.glob("*token*"):
        path.unlink()
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    return folder


def bare(tmp_path: Path, names: Sequence[str]) -> Path:
    for name in names:
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_transformers(text: str, folder: Path) -> None:
    from transformers import AutoTokenizer

    ids = load_tokenizer(folder, "gpt2").encode(text)
    assert ids == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_restores_the_text_without_special_tokens(text: str, folder: Path) -> None:
    tokenizer = load_tokenizer(folder, "gpt2")
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace(END, "")


def test_nothing_is_truncated_or_padded(copied: Path) -> None:
    edit_json(
        copied / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": END,
        },
    )
    tokenizer = load_tokenizer(copied, "gpt2")
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert len(tokenizer.encode("a")) == 1


def test_a_prefix_space_is_added_if_the_settings_say_so(copied: Path) -> None:
    to_first_format(copied)
    plain = load_tokenizer(copied, "gpt2").encode(" fox")
    (copied / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert load_tokenizer(copied, "gpt2").encode("fox") == plain


def test_a_special_token_outside_the_vocabulary_gets_no_id(copied: Path) -> None:
    to_first_format(copied)
    vocabulary = json.loads((copied / "vocab.json").read_text())
    without = {token: at for at, token in enumerate(t for t in vocabulary if t != END)}
    (copied / "vocab.json").write_text(json.dumps(without))
    tokenizer = load_tokenizer(copied, "gpt2")
    assert tokenizer.start_id() is None
    assert max(tokenizer.encode(f"fox{END}")) < len(without)


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        ({}, END),
        ({"bos_token": "a", "eos_token": END}, "a"),
        ({"bos_token": {"content": "b", "lstrip": False}}, "b"),
        ({"bos_token": "<s>", "eos_token": "c"}, "c"),
        ({"bos_token": None, "eos_token": {"lstrip": False}}, END),
    ],
    ids=["none", "bos", "an object", "a bos that is not there", "an object without content"],
)
def test_the_token_that_a_text_starts_from(settings: dict[str, object], token: str, copied: Path) -> None:
    (copied / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(copied, "gpt2")
    assert tokenizer.start_id() == tokenizer.backend.token_to_id(token)


def test_a_missing_tokenizer(copied: Path) -> None:
    for path in copied.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer in .*copied") as caught:
        load_tokenizer(copied, "gpt2")
    assert caught.value.hint == "a model folder needs tokenizer.json, or vocab.json with merges.txt"


@pytest.mark.parametrize("contents", ["", "{}", "[]", '{"version": "1.0", "model": {"type": "Rhyme"}}', "\x00\x01"])
def test_a_damaged_tokenizer(contents: str, copied: Path) -> None:
    (copied / "tokenizer.json").write_text(contents)
    with pytest.raises(ModelError, match="copied: the tokenizer files are damaged: "):
        load_tokenizer(copied, "gpt2")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_damaged_files_of_the_first_format(name: str, copied: Path) -> None:
    (to_first_format(copied) / name).write_text("{ one two three")
    with pytest.raises(ModelError, match="copied: the tokenizer files are damaged: "):
        load_tokenizer(copied, "gpt2")


def test_a_vocabulary_without_merges(copied: Path) -> None:
    (to_first_format(copied) / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"copied has vocab.json but no merges.txt"):
        load_tokenizer(copied, "gpt2")


@pytest.mark.parametrize(("contents", "message"), [("{", "not valid JSON"), ("[]", "not a JSON object")])
def test_damaged_settings(contents: str, message: str, copied: Path) -> None:
    (copied / "tokenizer_config.json").write_text(contents)
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json: {message}"):
        load_tokenizer(copied, "gpt2")


def test_transformers_reads_other_files_and_its_error_becomes_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="transformers cannot load the tokenizer of") as caught:
        load_tokenizer(bare(tmp_path, ["tokenizer.model", "config.json"]), "llama")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_file_names_that_hold_a_tokenizer() -> None:
    assert names_hold_tokenizer(["config.json", "tokenizer.json"])
    assert names_hold_tokenizer(["spiece.model"])
    assert not names_hold_tokenizer(["tokenizer_config.json", "onnx/tokenizer.json", "model.safetensors"])


@pytest.mark.parametrize("key", ["bos_token", "eos_token"])
@pytest.mark.parametrize("setting", ["\ud800", {"content": "<s>\udfff"}], ids=["text", "object"])
def test_a_special_token_that_is_not_unicode(key: str, setting: object, copied: Path) -> None:
    edit_json(copied / "tokenizer_config.json", **{key: setting})
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json: {key} is not valid Unicode: '.*\\ud[8f]"):
        genlm.load(str(copied))


def test_a_word_outside_a_vocabulary_without_an_unknown_token_is_one_clear_line(tmp_path: Path) -> None:
    folder = save_three_words(tmp_path / "three", unk_token="hare")
    lm = genlm.load(str(folder), device="cpu")
    assert lm.generate("wolf king", max_new_tokens=2).prompt_token_ids == (1, 2)
    message = r"^the model's tokenizer cannot encode the text: .*Missing \[UNK\] token.*$"
    for use in (lm.generate, lm.next, lm.score, lm.attention):
        with pytest.raises(InputError, match=message):
            use("wolf hare")  # type: ignore[operator]
    (record,) = lm.batch(["wolf hare"])
    assert record.error is not None
    assert re.search(message, record.error.message)
