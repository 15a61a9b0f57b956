"""The score page: every token in the colour of its rank with its numbers on hover, and a histogram."""

from __future__ import annotations

from typing import Any

from genlm.model.info import ModelInfo
from genlm.records.made_by import MadeBy
from genlm.records.score import RANK_BOUNDS, ScoredText, Tally, TokenScore
from genlm.views.pages import make_page, provenance
from genlm.views.score import BUCKETS, whole_pieces
from genlm.views.terminal import visible
from genlm.views.tokens import label

# Browsers get slow with more tokens.
MOST_TOKENS = 50_000


class ScorePage:
    """Collects scored texts for a page. The totals count all tokens; the page shows the first MOST_TOKENS."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []
        self._tokens = 0

    def show(self, scored: ScoredText) -> None:
        """Add a text if there is room."""
        tokens = scored.tokens or ()
        room = MOST_TOKENS - self._tokens
        self._tokens += len(tokens)
        if room > 0:
            pieces = whole_pieces(tokens[:room])
            shown = [_token(text, token) for text, token in pieces]
            self._items.append({"place": _place(scored), "tokens": shown})

    def page(self, model: ModelInfo, made_by: MadeBy, total: Tally, *, bos: bool, window: int, stride: int) -> str:
        """Return the page."""
        first = "a start token is put before each text" if bos else "the first token of a text is not scored"
        data = {
            "about": f"{model.name} ({model.parameters:,} parameters); {first}; windows of {window:,} tokens, "
            f"stride {stride:,}",
            "total": _total(total),
            "ranks": [[name, count] for name, count in zip(BUCKETS, total.ranks, strict=True)],
            "bounds": RANK_BOUNDS,
            "items": self._items,
            "cut": self._cut(),
        }
        return make_page("Score", data, "score", footer=provenance(made_by, model))

    def _cut(self) -> str | None:
        if self._tokens <= MOST_TOKENS:
            return None
        return f"Shown are the first {MOST_TOKENS:,} of {self._tokens:,} tokens; the numbers above count all."


def _token(text: str, token: TokenScore) -> list[Any]:
    """Return the token as the page's script reads it."""
    return [visible(text), label(text), token.id, token.logprob, token.rank, token.entropy]


def _place(scored: ScoredText) -> str:
    tally = scored.tally
    place = [visible(scored.source)] if scored.source is not None else []
    line = [f"line {scored.line:,}"] if scored.line is not None else []
    return " \u00b7 ".join([*place, *line, f"perplexity {_number(tally.perplexity, 2)}", _bits(tally)])


def _total(total: Tally) -> list[list[str]]:
    return [
        ["texts", f"{total.num_texts:,}"],
        ["tokens", f"{total.num_tokens:,}"],
        ["bytes", f"{total.num_bytes:,}"],
        ["log-probability", f"{total.logprob:,.2f} nats"],
        ["perplexity", _number(total.perplexity, 2)],
        ["bits per byte", _number(total.bits_per_byte, 3)],
    ]


def _bits(tally: Tally) -> str:
    return f"{_number(tally.bits_per_byte, 3)} bits per byte"


def _number(value: float | None, places: int) -> str:
    return "\u2013" if value is None else f"{value:,.{places}f}"
