"""Tokens as they are shown: white space and parts of characters made visible."""

from __future__ import annotations

import re

from genlm.views.terminal import visible

OPEN_BOX = "\u2423"
# All white space except the usual characters, which have their own signs.
OTHER_SPACES = re.compile(r"[^\S \n\t]")


def label(text: str, split: bytes | None = None) -> str:
    """Return a token on one line: ␣ for a space, ␊ for a line break, <F0 9F> for part of a character."""
    if split is not None:
        return "<" + split.hex(" ").upper() + ">"
    shown = OTHER_SPACES.sub(lambda match: f"<U+{ord(match[0]):04X}>", visible(text))
    return shown.replace(" ", OPEN_BOX).replace("\n", "\u240a").replace("\t", "\u2409")


def shortened(text: str, width: int) -> str:
    """Return the text cut to at most `width` terminal cells."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def counted(number: int, noun: str) -> str:
    """Return "1 token", "2,000 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
