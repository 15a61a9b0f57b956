"""Text from prompts and models on a terminal: shown, never acted on."""

from __future__ import annotations

import unicodedata

# Format characters that turn the order of what is read around, or hide: LRM to RLM and the embeddings, overrides
# and isolates of Unicode's bidirectional algorithm.
REORDERING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
KEPT = frozenset("\n\t")


def visible(text: str) -> str:
    """The text with every control character made visible: ESC as ␛, others by their code."""
    return "".join(_visible(character) for character in text)


def escaped(json_text: str) -> str:
    """JSON that a terminal only shows: what `json` leaves as it is and a terminal may act on becomes an escape."""
    return "".join(c if _visible(c) == c else f"\\u{ord(c):04x}" for c in json_text)


def _visible(character: str) -> str:
    code = ord(character)
    if character in KEPT:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if character in REORDERING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return f"<U+{code:04X}>"
    return character
