"""A saved result that was run again."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.records.generation import Generation


@dataclass(frozen=True)
class Difference:
    """Where a result that was run again first differs from the saved one, in sample `index`.

    At token `position`, both from 0, it had the token `saved` and now has `now`: id and text, None where it has ended.
    Where the tokens are the same, `position` is None, and the text or the finish reason differs.
    """

    index: int
    position: int | None
    saved: tuple[int, str] | None
    now: tuple[int, str] | None


@dataclass(frozen=True)
class Replay:
    """A saved result that was run again, and where it first differs, if anywhere."""

    generation: Generation
    difference: Difference | None
