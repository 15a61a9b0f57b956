"""What each token stands for: the bytes of its vocabulary entry, and its position in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from genlm.model.tokenizer import Tokenizer

# A single byte in a SentencePiece vocabulary.
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# SentencePiece's character for a space.
SPACE_MARK = "\u2581"
# Texts longer than this many characters are encoded in parts.
PART = 1_000_000
# A line break between two characters that are not spaces: no token of a byte-level vocabulary extends past it.
SAFE_CUT = re.compile(r"(?<=\S\n)(?=\S)")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text.

    `piece` is the vocabulary's own spelling. `start:end` is its span in the text in characters (code points),
    `byte_start:byte_end` in UTF-8 bytes. A token with only part of a character has `whole` false, and its span in
    characters covers the whole character. A token that the tokenizer adds has an empty span.
    """

    id: int
    piece: str
    text: str
    bytes: bytes
    whole: bool
    special: bool
    start: int
    end: int
    byte_start: int
    byte_end: int


class Pieces:
    """The bytes and the text of token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend: Any = tokenizer.backend
        self.backend = backend
        self.is_byte_level = b'"ByteLevel"' in _state(self.backend.decoder)
        self._added: dict[int, str] = {
            id: token.content for id, token in self.backend.get_added_tokens_decoder().items()
        }
        self._known: dict[int, tuple[bytes, str]] = {}

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes that a token adds to a text; none for an id that the tokenizer does not have."""
        return self._look_up(id)[0]

    def text_of(self, id: int) -> str:
        """Return the text of a token, with U+FFFD for incomplete characters."""
        return self._look_up(id)[1]

    def is_whole(self, id: int) -> bool:
        """Return whether a token consists of whole characters."""
        found, text = self._look_up(id)
        return text.encode("utf-8") == found

    def incomplete_bytes(self, id: int) -> bytes | None:
        """Return the bytes of a token that holds only part of a character, whose text cannot show them; else None."""
        return None if self.is_whole(id) else self.bytes_of(id)

    @property
    def size(self) -> int:
        """The number of tokens in the vocabulary."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def knows(self, id: int) -> bool:
        """Return whether the vocabulary has a token with this id."""
        return 0 <= id < 1 << 32 and self.backend.id_to_token(id) is not None

    def join(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with special tokens, and with U+FFFD for incomplete characters."""
        if self.is_byte_level:
            return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def encode(self, text: str) -> Iterator[list[int]]:
        """Yield the ids of a text, without the special tokens that the tokenizer adds; long texts come in parts."""
        for part in self._parts(text):
            yield self.backend.encode(part, add_special_tokens=False).ids

    def tokens(self, text: str) -> list[Token]:
        """Return the tokens of a text with their spans, and the special tokens that the tokenizer adds around it."""
        encoding = self.backend.encode(text)
        return self._with_spans(text, encoding.ids, encoding.offsets, encoding.special_tokens_mask)

    def tokens_of_ids(self, ids: Sequence[int]) -> list[Token]:
        """Return the tokens of ids, with their spans in the text that they form."""
        data = b"".join(map(self.bytes_of, ids))
        return self._with_spans(data.decode("utf-8", "replace"), ids, [(0, 0)] * len(ids), [0] * len(ids), data)

    def _look_up(self, id: int) -> tuple[bytes, str]:
        if id not in self._known:
            found = self._spell(id)
            self._known[id] = (found, found.decode("utf-8", "replace"))
        return self._known[id]

    def _spell(self, id: int) -> bytes:
        if id in self._added:
            return self._added[id].encode("utf-8")
        piece = self.backend.id_to_token(id)
        if piece is None:
            return b""
        if self.is_byte_level and all(character in BYTE_OF for character in piece):
            return bytes(BYTE_OF[character] for character in piece)
        byte = BYTE.fullmatch(piece)
        if byte:
            return bytes([int(byte[1], 16)])
        if SPACE_MARK in piece:
            return str(piece).replace(SPACE_MARK, " ").encode("utf-8")
        return (self.backend.decode([id]) or str(piece)).encode("utf-8")

    def _parts(self, text: str) -> Iterator[str]:
        at = 0
        while self.is_byte_level and len(text) - at > PART:
            cut = SAFE_CUT.search(text, at + PART)
            if cut is None:
                break
            yield text[at : cut.end()]
            at = cut.end()
        yield text[at:] if at else text

    def _with_spans(
        self,
        text: str,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        is_added: Sequence[int],
        data: bytes | None = None,
    ) -> list[Token]:
        data = text.encode("utf-8") if data is None else data
        spelled = [b"" if added else self.bytes_of(id) for id, added in zip(ids, is_added, strict=True)]
        exact = b"".join(spelled) == data
        spans = _spans_of_bytes(data, spelled) if exact else _spans_of_offsets(text, offsets)
        return [
            Token(
                id,
                self.backend.id_to_token(id) or "",
                self.text_of(id),
                self.bytes_of(id),
                self.is_whole(id),
                bool(added) or id in self._added,
                *span,
            )
            for id, added, span in zip(ids, is_added, spans, strict=True)
        ]


# start, end, byte_start, byte_end: see Token.
Span: TypeAlias = tuple[int, int, int, int]


def _spans_of_bytes(data: bytes, spelled: Sequence[bytes]) -> list[Span]:
    """Return the span of each token if the tokens form the text byte for byte."""
    spans: list[Span] = []
    at = begun = 0
    for piece in spelled:
        # A character that an earlier token began is also the first of this one.
        start = begun - (at < len(data) and _continues(data[at]) and bool(piece))
        begun += sum(not _continues(byte) for byte in piece)
        spans.append((start, max(start, begun), at, at + len(piece)))
        at += len(piece)
    return spans


def _spans_of_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Return the spans that the tokenizer reports, which may omit a space before a word."""
    return [(start, end, len(text[:start].encode()), len(text[:end].encode())) for start, end in offsets]


def _continues(byte: int) -> bool:
    """Return whether a UTF-8 byte is not the first of its character."""
    return byte & 0xC0 == 0x80


def _state(part: Any) -> bytes:
    return part.__getstate__() if part is not None else b""


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each printable character stands for in a byte-level vocabulary such as GPT-2's."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
