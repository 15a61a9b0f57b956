"""Which passages of a text stood in it before."""

from __future__ import annotations

from collections.abc import Sequence

# As in seq-rep-4: so many tokens in a row are a passage.
PASSAGE = 4


def repeated(tokens: Sequence[int]) -> list[bool]:
    """Of each token, whether it is in a run of four that stood in the text before."""
    marks = [False] * len(tokens)
    seen: set[tuple[int, ...]] = set()
    for at in range(len(tokens) - PASSAGE + 1):
        run = tuple(tokens[at : at + PASSAGE])
        if run in seen:
            marks[at : at + PASSAGE] = [True] * PASSAGE
        seen.add(run)
    return marks
