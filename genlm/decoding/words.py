"""Values that are lists, spelled as one text: words that are banned, and what is added to tokens' logits.

In a list of words `%` and two hexadecimal digits stand for a byte, as in a URL, so that a word may hold whatever has a
meaning in a spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

WORD_SEPARATOR, BIAS_SEPARATOR = "|", ";"
# What a spec or a list takes for its own.
RESERVED = frozenset(",=|;%")
LARGEST_BIAS = 1e6
PAIR = re.compile(r"\s*([0-9]+)\s*:(.*)", re.DOTALL)


def read_words(text: str) -> tuple[str, ...]:
    """The words that a text spells, each once; white space around one is no part of it.

    Raises:
        ValueError: an empty word, or one that is not UTF-8.
    """
    if not text:
        return ()
    words = tuple(dict.fromkeys(unquote(part.strip(), errors="strict") for part in text.split(WORD_SEPARATOR)))
    "".join(words).encode()
    if not all(words):
        raise ValueError("an empty word")
    return words


def spell_words(given: object) -> str | None:
    """The one spelling of words, given as a text or a list of plain words; None where they are none."""
    try:
        if isinstance(given, str):
            return WORD_SEPARATOR.join(map(_spell_word, read_words(given)))
        return spell_words(WORD_SEPARATOR.join(map(_spell_word, _texts(given))))
    except ValueError:
        return None


def _spell_word(word: str) -> str:
    if not word:
        raise ValueError("an empty word")
    inner = word.strip(" ")
    before = len(word) - len(word.lstrip(" "))
    after = len(word) - before - len(inner)
    return "".join(["%20" * before, *map(_spell_character, inner), "%20" * after])


def _spell_character(character: str) -> str:
    is_plain = character.isprintable() and character not in RESERVED
    return character if is_plain else quote(character, safe="")


def read_biases(text: str) -> dict[int, float]:
    """What is added to the logits of tokens, by their ids in rising order.

    Raises:
        ValueError: what is no list of pairs, an id that is there twice, or a bias beyond a million.
    """
    pairs = [_read_pair(part) for part in text.split(BIAS_SEPARATOR)] if text else []
    biases = dict(sorted(pairs))
    if len(biases) < len(pairs):
        raise ValueError("an id twice")
    return biases


def spell_biases(given: object) -> str | None:
    """The one spelling of biases, given as a text or a list of pairs; None where they are none."""
    try:
        text = given if isinstance(given, str) else BIAS_SEPARATOR.join(_texts(given))
        return BIAS_SEPARATOR.join(f"{token}:{bias!r}" for token, bias in read_biases(text).items())
    except ValueError:
        return None


def _read_pair(text: str) -> tuple[int, float]:
    match = PAIR.fullmatch(text)
    if match is None:
        raise ValueError("no pair")
    bias = float(match[2])
    if not -LARGEST_BIAS <= bias <= LARGEST_BIAS:
        raise ValueError("a bias out of range")
    return int(match[1]), bias


def _texts(given: object) -> Iterable[str]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, str) for each in given):
        raise ValueError("no list of texts")
    return given
