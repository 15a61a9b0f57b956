"""A generation whose tokens are coloured by probability."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from genlm.decoding.completion import Completion, Piece, TracedToken
from genlm.records.compare import Sample
from genlm.records.generation import Generation
from genlm.views.generation import TextView
from genlm.views.score import STYLES, whole_pieces

if TYPE_CHECKING:
    from rich.text import Text

# A token belongs to the first bucket whose bound its probability reaches.
BOUNDS = (0.5, 0.1, 0.01)
BUCKETS = (*(f"{100 * bound:g} % and more" for bound in BOUNDS), "less")
# Generated but not part of the text: an end token, a stop text and whatever follows it.
BEYOND = "dim"


class TraceView(TextView):
    """Writes each completion as it ends, coloured by its tokens' probabilities, and a legend below."""

    shows = (Completion,)

    def show(self, event: Piece | Completion) -> None:
        """See TextView. Pieces of text are not shown because they do not align with tokens."""
        if isinstance(event, Completion):
            self._waiting[event.index] = [(text, _style(token, within)) for text, token, within in parts(event)]
            super().show(event)

    def finish(self, generation: Generation) -> None:
        """Write the legend."""
        if self._writer.console is not None:
            self._writer.console.print(legend())


def parts(completion: Completion | Sample) -> Iterator[tuple[str, TracedToken, bool]]:
    """Yield the parts of a completion: each text, its token, and whether it belongs to the completion's text."""
    left = sys.maxsize if completion.finish_reason == "length" else len(completion.text)
    for text, token in whole_pieces(completion.trace or ()):
        for part, within in ((text[:left], True), (text[left:], False)):
            if part:
                yield part, token, within
        left = max(0, left - len(text))


def bucket(probability: float) -> int:
    """Return which of BUCKETS a probability belongs to."""
    return sum(probability < bound for bound in BOUNDS)


def legend(names: Sequence[str] = BUCKETS) -> Text:
    """Return the styles and their meaning, on one line."""
    from rich.text import Text

    shown = Text.assemble(("probability  ", "dim"))
    for name, style in zip(names, STYLES, strict=True):
        shown.append(name, style=style)
        shown.append("  ")
    return shown


def _style(token: TracedToken, within: bool) -> str:
    return STYLES[bucket(token.probability)] if within else BEYOND
