"""Tokens and their spans: every byte of a text belongs to one token, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gpt2 import TEXT, byte_tokenizer

from genlm.errors import InputError
from genlm.formats.texts import Text
from genlm.model.pieces import Pieces
from genlm.model.source import find_model
from genlm.model.tokenizer import Tokenizer
from genlm.tasks.tokenize import detokenize, open_tokenizer, tokenize

BYTES = Pieces(Tokenizer(byte_tokenizer()))


def sentencepiece() -> Tokenizer:
    """A tokenizer with a character for spaces, and bytes for characters outside its vocabulary."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581fox", "\u2581", "king", "s"]
    merges = [("\u2581f", "ox")]
    vocab = {word: number for number, word in enumerate([*words, "f", "o", "x", "\u2581f", "ox", *"king", "ki", "ng"])}
    merges = [("\u2581", "f"), ("o", "x"), ("\u2581f", "ox"), ("k", "i"), ("n", "g"), ("ki", "ng")]
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_byte_spans_are_contiguous_and_lie_within_character_spans(text: str) -> None:
    data = text.encode()
    tokens = list(BYTES.tokens(text))
    assert b"".join(token.bytes for token in tokens) == data
    at = 0
    for token in tokens:
        assert (token.byte_start, token.byte_end) == (at, at + len(token.bytes))
        at = token.byte_end
        span = text[token.start : token.end].encode()
        before = len(text[: token.start].encode())
        assert before <= token.byte_start
        assert before + len(span) >= token.byte_end
        if token.whole:
            assert span == token.bytes


def test_a_character_split_over_several_tokens_keeps_its_bytes() -> None:
    tokens = list(BYTES.tokens("a🦊"))
    assert [token.bytes for token in tokens[1:]] == [b"\xf0", b"\x9f", b"\xa6", b"\x8a"]
    assert {(token.start, token.end, token.whole) for token in tokens[1:]} == {(1, 2, False)}


def test_an_end_of_text_within_a_text_is_a_special_token() -> None:
    (token,) = BYTES.tokens("<|endoftext|>")
    assert (token.id, token.text, token.special) == (0, "<|endoftext|>", True)


def test_a_token_that_the_tokenizer_adds_has_an_empty_span() -> None:
    from tokenizers import processors

    backend = byte_tokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    pieces = Pieces(Tokenizer(backend))
    first, *others = pieces.tokens("fox")
    assert (first.id, first.special, first.byte_start, first.byte_end) == (0, True, 0, 0)
    assert b"".join(token.bytes for token in others) == b"fox"
    assert next(pieces.encode("fox")) == [token.id for token in others]


def test_sentencepiece_spaces_and_bytes_are_decoded() -> None:
    pieces = Pieces(sentencepiece())
    ids = next(pieces.encode("fox é"))
    assert [pieces.bytes_of(id) for id in ids] == [b" fox", b" ", b"\xc3", b"\xa9"]
    assert pieces.join(ids) == "fox é"
    tokens = list(pieces.tokens("fox é"))
    assert (tokens[0].start, tokens[0].end) == (0, 3)
    assert [token.whole for token in tokens] == [True, True, False, False]


def test_an_id_without_a_token_has_no_text() -> None:
    assert (BYTES.bytes_of(10**6), BYTES.text_of(10**6), BYTES.knows(10**6), BYTES.knows(10**12)) == (
        b"",
        "",
        False,
        False,
    )


def test_ids_give_the_text_back(tiny: Path) -> None:
    tokenizer = open_tokenizer(find_model(str(tiny)))
    (there,) = tokenize(tokenizer, [Text(TEXT, "a.txt", 3)])
    for written in (" ".join(str(token.id) for token in there.tokens), str([token.id for token in there.tokens])):
        (back,) = detokenize(tokenizer, [Text(written, "a.txt", 3)])
        assert (back.text, back.source, back.line) == (there.text, there.source, there.line)
        assert list(back.tokens) == list(there.tokens)


def test_no_weights_are_needed(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"")
    (found,) = tokenize(open_tokenizer(find_model(str(copied))), [Text("fox")])
    assert "".join(token.text for token in found.tokens) == "fox"


def test_half_a_character_decodes_to_the_replacement_character(tiny: Path) -> None:
    tokenizer = open_tokenizer(find_model(str(tiny)))
    half = tokenizer.encode("🦊")[:2]
    (found,) = detokenize(tokenizer, [Text(" ".join(map(str, half)))])
    assert found.text == "\ufffd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5 x", "not a token id: 'x'"),
        ("-1", "not a token id: '-1'"),
        ("1.5", "not a token id"),
        ("9999", "no token 9999"),
    ],
)
def test_an_invalid_id_is_an_error(tiny: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(detokenize(open_tokenizer(find_model(str(tiny))), [Text(text)]))
