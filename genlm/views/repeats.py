"""Which passages of a text are repeated."""

from __future__ import annotations

from collections.abc import Sequence

# Length of a passage in tokens, as in seq-rep-4.
PASSAGE = 4


def repeated(tokens: Sequence[int]) -> list[bool]:
    """Return for each token whether it is in a run of four that occurred earlier in the text."""
    marks = [False] * len(tokens)
    seen: set[tuple[int, ...]] = set()
    for at in range(len(tokens) - PASSAGE + 1):
        run = tuple(tokens[at : at + PASSAGE])
        if run in seen:
            marks[at : at + PASSAGE] = [True] * PASSAGE
        seen.add(run)
    return marks
