"""Turn texts into tokens with offsets and bytes, and ids into texts. No weights are needed."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator

from genlm.errors import InputError
from genlm.formats.texts import Text
from genlm.model.files import read_json
from genlm.model.pieces import Pieces
from genlm.model.source import ModelFolder
from genlm.model.tokenizer import Tokenizer, load_tokenizer
from genlm.records.inspection import TokenizedText

# An id in a list such as 1 2 3 or [1, 2, 3].
WORD = re.compile(r"[^\s,\[\]]+")
# No vocabulary has an id with more digits.
MOST_DIGITS = 10
LONGEST_SHOWN = 40


def open_tokenizer(folder: ModelFolder) -> Tokenizer:
    """Return the tokenizer of a model's folder. Raise ModelError if there is none or it is damaged."""
    return load_tokenizer(folder.path, read_json(folder.path / "config.json").get("model_type"))


def tokenize(tokenizer: Tokenizer, texts: Iterable[Text]) -> Iterator[TokenizedText]:
    """Yield the tokens of each text as `generate` runs it: with the special tokens that the tokenizer adds.

    Raises:
        InputError: a text that the tokenizer cannot encode.
    """
    pieces = Pieces(tokenizer)
    for text in texts:
        yield TokenizedText(text.text, text.source, text.line, pieces.tokens(text.text))


def detokenize(tokenizer: Tokenizer, texts: Iterable[Text]) -> Iterator[TokenizedText]:
    """Yield the text of the ids that each text lists.

    Raises:
        InputError: a word that is not a token id, or an id that the tokenizer does not have.
    """
    pieces = Pieces(tokenizer)
    for text in texts:
        ids = array("Q", (_read_id(pieces, word[0]) for word in WORD.finditer(text.text)))
        yield TokenizedText(pieces.join(ids), text.source, text.line, pieces.tokens_of_ids(ids))


def _read_id(pieces: Pieces, word: str) -> int:
    shown = word if len(word) <= LONGEST_SHOWN else word[:LONGEST_SHOWN] + "…"
    if not re.fullmatch(r"[0-9]+", word):
        raise InputError(f"not a token id: {shown!r}", hint="ids are whole numbers, as 5 17 300 or [5, 17, 300]")
    # Python refuses to convert thousands of digits.
    digits = word.lstrip("0") or "0"
    if len(digits) > MOST_DIGITS or not pieces.knows(int(digits)):
        raise InputError(f"the tokenizer has no token {shown}", hint=f"its ids are 0 to {pieces.size - 1}")
    return int(digits)
