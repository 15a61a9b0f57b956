"""What each token stands for: the bytes of its piece of the vocabulary, and its place in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genlm.model.tokenizer import Tokenizer

# A byte that a SentencePiece vocabulary falls back to.
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# SentencePiece's mark for a space.
SPACE_MARK = "\u2581"
# A text longer than this many characters is encoded in parts.
PART = 1_000_000
# A line break between two characters that are no space: no token of a byte-level vocabulary reaches across its end.
SAFE_CUT = re.compile(r"(?<=\S\n)(?=\S)")


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text.

    `piece` is the vocabulary's own spelling. `start:end` is its place in the text in characters (code points),
    `byte_start:byte_end` in UTF-8 bytes. A token that holds only part of a character spans the whole character in
    characters, and has `whole` false. A token that the tokenizer adds by itself has an empty place.
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
        """The bytes that the token adds to a text; none for an id that the tokenizer does not have."""
        return self._look_up(id)[0]

    def text_of(self, id: int) -> str:
        """The same as text, with U+FFFD for what is not a whole character."""
        return self._look_up(id)[1]

    def is_whole(self, id: int) -> bool:
        """Whether the token is made of whole characters."""
        found, text = self._look_up(id)
        return text.encode("utf-8") == found

    @property
    def size(self) -> int:
        """How many tokens the tokenizer has."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def knows(self, id: int) -> bool:
        """Whether there is such a token."""
        return 0 <= id < 1 << 32 and self.backend.id_to_token(id) is not None

    def join(self, ids: Sequence[int]) -> str:
        """The text that ids make, special tokens included; U+FFFD for what is not a whole character."""
        if self.is_byte_level:
            return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def encode(self, text: str) -> Iterator[list[int]]:
        """The ids of a text, without special tokens of the tokenizer's own, a long one in parts."""
        for part in self._parts(text):
            yield self.backend.encode(part, add_special_tokens=False).ids

    def tokens(self, text: str) -> list[Token]:
        """The tokens of a text with their places, and the special tokens that the tokenizer puts around it."""
        encoding = self.backend.encode(text)
        return self._placed(text, encoding.ids, encoding.offsets, encoding.special_tokens_mask)

    def tokens_of_ids(self, ids: Sequence[int]) -> list[Token]:
        """The tokens of ids, with their places in the text that they make."""
        data = b"".join(map(self.bytes_of, ids))
        return self._placed(data.decode("utf-8", "replace"), ids, [(0, 0)] * len(ids), [0] * len(ids), data)

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

    def _placed(
        self,
        text: str,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        by_itself: Sequence[int],
        data: bytes | None = None,
    ) -> list[Token]:
        data = text.encode("utf-8") if data is None else data
        spelled = [b"" if added else self.bytes_of(id) for id, added in zip(ids, by_itself, strict=True)]
        exact = b"".join(spelled) == data
        places = _places_of_bytes(data, spelled) if exact else _places_of_characters(text, offsets)
        return [
            Token(
                id,
                self.backend.id_to_token(id) or "",
                self.text_of(id),
                self.bytes_of(id),
                self.is_whole(id),
                bool(added) or id in self._added,
                *place,
            )
            for id, added, place in zip(ids, by_itself, places, strict=True)
        ]


Place = tuple[int, int, int, int]


def _places_of_bytes(data: bytes, spelled: Sequence[bytes]) -> list[Place]:
    """Where each piece lies when the pieces make up the text byte for byte."""
    places: list[Place] = []
    at = begun = 0
    for piece in spelled:
        # A character that an earlier token has begun is this one's first too.
        start = begun - (at < len(data) and _continues(data[at]) and bool(piece))
        begun += sum(not _continues(byte) for byte in piece)
        places.append((start, max(start, begun), at, at + len(piece)))
        at += len(piece)
    return places


def _places_of_characters(text: str, offsets: Sequence[tuple[int, int]]) -> list[Place]:
    """The places that the tokenizer tells, which may leave out a space before a word."""
    return [(start, end, len(text[:start].encode()), len(text[:end].encode())) for start, end in offsets]


def _continues(byte: int) -> bool:
    """Whether a UTF-8 byte is not the first of its character."""
    return byte & 0xC0 == 0x80


def _state(part: Any) -> bytes:
    return part.__getstate__() if part is not None else b""


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary, as GPT-2's encoder has them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
