"""Streaming text: whole characters and exact stops, wherever the boundaries between tokens are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.gpt2 import byte_tokenizer

from genlm.decoding.completion import TextStream, first_stop, longest_prefix


@cache
def tokenizer() -> object:
    return byte_tokenizer()


def decode(ids: Sequence[int]) -> str:
    return tokenizer().decode(list(ids))  # type: ignore[attr-defined, no-any-return]


def encode(text: str) -> list[int]:
    return tokenizer().encode(text).ids  # type: ignore[attr-defined, no-any-return]


@cache
def byte_ids() -> list[int]:
    """Return the token of each byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    # GPT-2's table: some bytes stand for themselves, the others for the characters from 256 on.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [code for code in range(256) if code not in plain]
    letters = {code: chr(code) for code in plain} | {code: chr(256 + at) for at, code in enumerate(others)}
    assert set(letters.values()) == set(ByteLevel.alphabet())
    return [tokenizer().token_to_id(letters[code]) for code in range(256)]  # type: ignore[attr-defined]


def as_bytes(data: bytes) -> list[int]:
    """Return one token per byte, so that every character of several bytes is split."""
    return [byte_ids()[code] for code in data]


def pieces(stream: TextStream, ids: Sequence[int]) -> list[str]:
    said = []
    for token in ids:
        said.append(stream.push(token))
        if stream.stopped:
            return said
    return [*said, stream.finish()]


VOCABULARY = 300
ANY_BYTES = st.binary(max_size=60) | st.text(max_size=30).map(str.encode)
ANY_IDS = st.lists(st.integers(0, VOCABULARY - 1), max_size=60) | ANY_BYTES.map(as_bytes)


def test_byte_tokens_spell_bytes() -> None:
    assert decode(as_bytes("naïve 🦊\n".encode())) == "naïve 🦊\n"
    assert decode(as_bytes(b"\xff")) == "\ufffd"


@given(ids=ANY_IDS, prompt=st.sampled_from(["", "Once upon a time", "🦊狐", "\ufffd", "a" * 50]))
@example(ids=as_bytes(b"\xf0\x9f\xa6" * 20 + "🦊".encode()), prompt="")
@example(ids=as_bytes(b"\xff" * 40 + "狐".encode() + b"\x80" * 40), prompt="")
@example(ids=as_bytes("\ufffd🦊".encode() * 9 + b"\xe7"), prompt="\ufffd")
def test_the_pieces_are_the_text_and_none_is_taken_back(ids: list[int], prompt: str) -> None:
    stream = TextStream(decode, encode(prompt))
    whole = decode(ids)
    said = ""
    for piece in pieces(stream, ids):
        said += piece
        assert whole.startswith(said)
    assert said == whole == stream.text


@given(st.text(min_size=1, max_size=30))
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    stream = TextStream(decode, ())
    for char in text:
        *first, last = as_bytes(char.encode())
        assert [stream.push(token) for token in first] == [""] * len(first)
        assert stream.push(last).endswith(char) or char == "\ufffd"


def test_text_before_an_incomplete_character_in_the_same_token_does_not_wait() -> None:
    texts = {0: "fox\ufffd", 1: "\ufffd"}

    def joined(ids: list[int]) -> str:
        return "fox狐" if ids == [0, 1] else "".join(texts[token] for token in ids)

    stream = TextStream(joined, ())
    assert stream.push(0) == "fox"
    assert stream.push(1) == "狐"


def test_a_special_token_has_no_text_and_separates_nothing() -> None:
    end = tokenizer().token_to_id("<|endoftext|>")  # type: ignore[attr-defined]
    fox = as_bytes("🦊".encode())
    ids = [*encode("a"), end, *fox[:2], end, *fox[2:], *[end] * 30, *encode("b")]
    stream = TextStream(decode, ())
    assert "".join(pieces(stream, ids)) == "a🦊b"


def words(ids: Sequence[int]) -> str:
    """Decode like SentencePiece, which drops the space before the first word."""
    return "".join(f" {'abcde'[token]}" for token in ids).removeprefix(" ")


def test_the_space_that_a_decoder_drops_at_the_start_is_kept() -> None:
    ids = [0, 1, 2, 3, 4] * 9
    assert "".join(pieces(TextStream(words, [4]), ids)) == " " + words(ids)


def byte_fallback() -> Callable[[Sequence[int]], str]:
    """Return a decoder like Llama's: a character that is no token is spelled in tokens of one byte."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {f"<0x{code:02X}>": code for code in range(256)} | {"▁fox": 256}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return lambda ids: backend.decode(list(ids))


@given(st.lists(st.sampled_from([*"狐🦊é—x", "fox"]), max_size=40))
def test_fallback_bytes_wait_for_the_whole_character(parts: list[str]) -> None:
    ids = [code for part in parts for code in ([256] if part == "fox" else part.encode())]
    whole = "".join(" fox" if part == "fox" else part for part in parts)
    stream = TextStream(byte_fallback(), ())
    said = ""
    for piece in pieces(stream, ids):
        said += piece
        assert whole.startswith(said)
    assert said == whole


@pytest.mark.parametrize(
    "ids",
    [
        as_bytes(b"\xff") * 1000,
        as_bytes(b"\xe2\x80") * 500,
        as_bytes("🦊".encode()) * 250,
        as_bytes(b"plain text ") * 100,
        [0] * 1000,
    ],
    ids=["invalid", "cut short", "emoji", "plain", "special"],
)
def test_the_work_is_linear_in_the_length(ids: list[int]) -> None:
    decoded = 0

    def counting(some: list[int]) -> str:
        nonlocal decoded
        decoded += len(some)
        return decode(some)

    said = pieces(TextStream(counting, ()), ids)
    assert "".join(said) == decode(ids)
    assert decoded < 30 * len(ids)


# With tokens that are arbitrary strings, any boundary between tokens can be tested.
LETTERS = st.text("ab", max_size=4)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def stream_of(parts: Sequence[str], stop: Sequence[str]) -> TextStream:
    return TextStream(lambda ids: "".join(parts[token] for token in ids), (), stop)


def cut(text: str, stop: Sequence[str]) -> str | None:
    """Return the text before the stop text that is complete first, letter by letter; None if there is none."""
    for end in range(1, len(text) + 1):
        complete = [len(each) for each in stop if text[:end].endswith(each)]
        if complete:
            return text[: end - max(complete)]
    return None


def certain(text: str, stop: Sequence[str]) -> str:
    """Return the text up to where a stop text could begin."""
    may_begin = (at for at in range(len(text) + 1) if any(each.startswith(text[at:]) for each in stop))
    return text[: next(may_begin)]


@given(st.lists(LETTERS, max_size=12), STOPS)
@example(["x", "ab", "cd"], ["abcd", "bc"])
@example(["xabcd"], ["abcd", "bc"])
@example(["aa", "b"], ["aab", "ab", "b"])
@example(["ab"], ["abc"])
def test_a_stop_text_is_cut_exactly_and_at_once(parts: list[str], stop: list[str]) -> None:
    stream = stream_of(parts, stop)
    so_far = ""
    for token, part in enumerate(parts):
        stream.push(token)
        so_far += part
        expected = cut(so_far, stop)
        assert stream.stopped is (expected is not None)
        if expected is not None:
            assert stream.text == expected
            assert stream.finish() == ""
            return
        assert stream.text == certain(so_far, stop)
    stream.finish()
    assert (stream.text, stream.stopped) == (so_far, False)


@given(st.text("ab狐🦊", max_size=12), st.lists(st.text("ab狐🦊", min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_stop_text_is_cut_across_tokens_of_single_bytes(text: str, stop: list[str]) -> None:
    stream = TextStream(decode, encode("The king"), stop)
    assert "".join(pieces(stream, as_bytes(text.encode()))) == (cut(text, stop) if stream.stopped else text)
    assert stream.stopped is (cut(text, stop) is not None)


def test_a_stop_text_in_the_prompt_is_no_stop() -> None:
    stream = TextStream(decode, encode("The king."), ["king.", "g. A"])
    assert "".join(pieces(stream, encode(" And so."))) == " And so."
    assert not stream.stopped


def test_a_stop_text_can_be_completed_by_finish() -> None:
    stream = TextStream(decode, (), ["\ufffd"])
    assert [stream.push(token) for token in as_bytes(b"a\xe2")] == ["a", ""]
    assert not stream.stopped
    assert stream.finish() == ""
    assert stream.stopped


def test_a_fork_is_independent() -> None:
    parts = ["x", "a", "b", "c"]
    stream = stream_of(parts, ["ab"])
    stream.push(0)
    stream.push(1)
    fork = stream.fork()
    fork.push(2)
    stream.push(3)
    assert (fork.text, fork.stopped) == ("x", True)
    assert (stream.text, stream.stopped) == ("xac", False)


def test_where_a_stop_text_begins() -> None:
    assert first_stop("the end", ["end", "the"]) == 0
    assert first_stop("the end", ["fox"]) is None
    assert longest_prefix("the en", ["end", "enough"]) == 2
    assert longest_prefix("the en", []) == 0
