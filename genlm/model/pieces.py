"""The bytes and text of each token, and its position in a text."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from genlm.model.tokenizer import BYTE_OF, Tokenizer

# A single byte in a SentencePiece vocabulary.
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# SentencePiece's character for a space.
SPACE_MARK = "\u2581"
# The bytes of UTF-8 that are not the first of a character.
CONTINUATIONS = bytes(range(0x80, 0xC0))


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


class Piece(NamedTuple):
    """A token of the vocabulary: its spelling there, its text and bytes, and whether these are whole characters."""

    spelling: str
    text: str
    bytes: bytes
    whole: bool


class Tokens(Collection[Token]):
    """The tokens of a text. They are created while one iterates over them, because millions would take gigabytes."""

    def __init__(self, ids: Sequence[int], create: Callable[[], Iterator[Token]]) -> None:
        self.ids = ids
        self._create = create

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Token]:
        return self._create()

    def __contains__(self, token: object) -> bool:
        return any(token == each for each in self)


class Pieces:
    """The bytes and the text of token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.backend = tokenizer.backend
        decoder = self.backend.decoder
        self.is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        self._tokenizer = tokenizer
        added = self.backend.get_added_tokens_decoder()
        self._added: dict[int, str] = {id: token.content for id, token in added.items()}
        self._known: dict[int, Piece] = {}

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes that a token adds to a text; none for an id that the tokenizer does not have."""
        return self._look_up(id).bytes

    def text_of(self, id: int) -> str:
        """Return the text of a token, with U+FFFD for incomplete characters."""
        return self._look_up(id).text

    def incomplete_bytes(self, id: int) -> bytes | None:
        """Return the bytes of a token that holds only part of a character, whose text cannot show them; else None."""
        piece = self._look_up(id)
        return None if piece.whole else piece.bytes

    @property
    def size(self) -> int:
        """The number of tokens in the vocabulary."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def knows(self, id: int) -> bool:
        """Return whether the vocabulary has a token with this id."""
        return 0 <= id < 1 << 32 and self.backend.id_to_token(id) is not None

    def join(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with special tokens, and with U+FFFD for incomplete characters."""
        if self.is_byte_level:
            return b"".join(map(self.bytes_of, ids)).decode("utf-8", "replace")
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def encode(self, text: str) -> Iterator[list[int]]:
        """Yield the ids of a text, without the special tokens that the tokenizer adds; long texts come in parts.

        Raises:
            InputError: the tokenizer cannot encode the text.
        """
        for part in self._tokenizer.parts(text):
            yield self._tokenizer.encoding(part, add_special_tokens=False).ids

    def tokens(self, text: str) -> Tokens:
        """Return the tokens of a text with their spans, and the special tokens that the tokenizer adds around it.

        Raises:
            InputError: the tokenizer cannot encode the text.
        """
        ids, starts, ends, is_added = array("Q"), array("Q"), array("Q"), bytearray()
        parts = list(self._tokenizer.parts(text))
        at = 0
        for number, part in enumerate(parts):
            is_first, is_last = number == 0, number == len(parts) - 1
            encoding = self._tokenizer.encoding(part, add_special_tokens=is_first or is_last)
            mask = bytes(encoding.special_tokens_mask)
            # Only the whole text has special tokens around it.
            start = 0 if is_first else len(mask) - len(mask.lstrip(b"\1"))
            end = len(mask) if is_last else len(mask.rstrip(b"\1"))
            ids.extend(encoding.ids[start:end])
            is_added += mask[start:end]
            for left, right in encoding.offsets[start:end]:
                starts.append(at + left)
                ends.append(at + right)
            at += len(part)
        data = text.encode("utf-8")
        spelled = [b"" if added else self.bytes_of(id) for id, added in zip(ids, is_added, strict=True)]
        is_exact = b"".join(spelled) == data

        def create() -> Iterator[Token]:
            spans = _spans_of_bytes(data, spelled) if is_exact else _spans_of_offsets(text, starts, ends)
            return self._with_spans(ids, is_added, spans)

        return Tokens(ids, create)

    def tokens_of_ids(self, ids: Sequence[int]) -> Tokens:
        """Return the tokens of ids, with their spans in the text that they form."""
        spelled = [self.bytes_of(id) for id in ids]
        data = b"".join(spelled)
        return Tokens(ids, lambda: self._with_spans(ids, bytes(len(ids)), _spans_of_bytes(data, spelled)))

    def _look_up(self, id: int) -> Piece:
        if id not in self._known:
            found = self._spell(id)
            text = found.decode("utf-8", "replace")
            spelling = self.backend.id_to_token(id) if self.knows(id) else None
            self._known[id] = Piece(spelling or "", text, found, text.encode("utf-8") == found)
        return self._known[id]

    def _spell(self, id: int) -> bytes:
        if id in self._added:
            return self._added[id].encode("utf-8")
        piece = self.backend.id_to_token(id) if self.knows(id) else None
        if piece is None:
            return b""
        if self.is_byte_level and all(character in BYTE_OF for character in piece):
            return bytes(BYTE_OF[character] for character in piece)
        byte = BYTE.fullmatch(piece)
        if byte:
            return bytes([int(byte[1], 16)])
        if SPACE_MARK in piece:
            return piece.replace(SPACE_MARK, " ").encode("utf-8")
        return (self.backend.decode([id]) or piece).encode("utf-8")

    def _with_spans(self, ids: Iterable[int], is_added: Iterable[int], spans: Iterable[Span]) -> Iterator[Token]:
        for id, added, span in zip(ids, is_added, spans, strict=True):
            yield Token(id, *self._look_up(id), bool(added) or id in self._added, *span)


# start, end, byte_start, byte_end: see Token.
Span: TypeAlias = tuple[int, int, int, int]


def _spans_of_bytes(data: bytes, spelled: Iterable[bytes]) -> Iterator[Span]:
    """Yield the span of each token if the tokens form the text byte for byte."""
    at = begun = 0
    for piece in spelled:
        # A character that an earlier token began is also the first of this one.
        start = begun - (at < len(data) and data[at] in CONTINUATIONS and bool(piece))
        begun += len(piece.translate(None, CONTINUATIONS))
        yield start, max(start, begun), at, at + len(piece)
        at += len(piece)


def _spans_of_offsets(text: str, starts: Iterable[int], ends: Iterable[int]) -> Iterator[Span]:
    """Yield the spans that the tokenizer reports, which may omit a space before a word."""
    byte_at = array("Q", accumulate((len(character.encode()) for character in text), initial=0))
    return ((start, end, byte_at[start], byte_at[end]) for start, end in zip(starts, ends, strict=True))
