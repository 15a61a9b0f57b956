"""Scored texts: coloured by rank, one line each, as a table of tokens, as JSON, or as a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from genlm.model.info import ModelInfo
from genlm.records.inspection import RANK_BOUNDS, ScoredText, Tally, TokenScore
from genlm.records.made_by import MadeBy
from genlm.records.serialize import ItemsWriter, as_line, split_bytes
from genlm.views.terminal import Writer, make_console, visible
from genlm.views.tokens import STYLES, bar, counted, label, percent, rounded, whole_pieces, write_table

if TYPE_CHECKING:
    from rich.text import Text

BUCKETS = (*(f"top {bound:,}" for bound in RANK_BOUNDS), "beyond")
UNSCORED = "dim"
BAR_WIDTH = 30
# Browsers get slow with more tokens.
MOST_PAGE_TOKENS = 50_000


class ScoreView(Protocol):
    """Shows scored texts as they come."""

    def show(self, scored: ScoredText) -> None:
        """Show a text."""
        ...

    def finish(self, total: Tally) -> None:
        """Show the total of all texts."""
        ...


class ScoreText:
    """Shows a single text in full, and several texts as one line each."""

    def __init__(self, stream: TextIO, *, alone: bool, tokens: bool) -> None:
        self._stream = stream
        self._console = make_console(stream)
        self._alone = alone
        self._tokens = tokens
        self._shown = 0

    def show(self, scored: ScoredText) -> None:
        """See ScoreView."""
        if self._alone:
            self._console.print(_coloured(scored, visible))
            self._console.print()
        else:
            self._line(scored)
        if self._tokens and scored.tokens:
            tokens, names = scored.tokens, ("token", "id", "log-prob", "rank", "entropy")
            write_table(Writer(self._stream), names, lambda: map(_row, tokens), map(_style, tokens))
        self._shown += 1

    def finish(self, total: Tally) -> None:
        """See ScoreView."""
        if not self._alone:
            self._console.print()
        for name, style, count in zip(BUCKETS, STYLES, total.ranks, strict=True):
            part = count / total.num_scored_tokens if total.num_scored_tokens else 0.0
            self._console.print(f"{name:<9} {count:>9,}  {percent(part):>8}  ", end="")
            self._console.print(bar(part, BAR_WIDTH), style=style.split()[0])
        self._console.print()
        self._console.print(_sum(total), soft_wrap=False)

    def _line(self, scored: ScoredText) -> None:
        from rich.text import Text

        if not self._shown:
            self._console.print("perplexity  bits/byte  tokens  text", style="dim")
        tally = scored.tally
        numbers = f"{rounded(tally.perplexity, 1):>10}  {rounded(tally.bits_per_byte, 3):>9}  {tally.num_tokens:>6,}  "
        if scored.line is None and scored.source is not None:
            self._console.print(Text(numbers + visible(scored.source)))
        else:
            self._console.print(Text.assemble(numbers, _coloured(scored, _on_one_line)))


def _row(token: TokenScore) -> Sequence[str]:
    return (
        label(token.text, token.bytes),
        str(token.id),
        rounded(token.logprob, 3),
        "–" if token.rank is None else f"{token.rank:,}",
        rounded(token.entropy, 3),
    )


def _on_one_line(text: str) -> str:
    return visible(text).replace("\n", "␊").replace("\t", "␉")


def _coloured(scored: ScoredText, show: Callable[[str], str]) -> Text:
    """Return the text with each token in the style of its rank; a split character has that of its last token."""
    from rich.text import Text

    if scored.tokens is None:
        return Text(show(scored.text))
    shown = Text()
    for text, token in whole_pieces(scored.tokens):
        shown.append(show(text), style=_style(token))
    return shown


def bucket(rank: int) -> int:
    """Return which of BUCKETS a rank belongs to."""
    return sum(rank > bound for bound in RANK_BOUNDS)


def _style(token: TokenScore) -> str:
    return UNSCORED if token.rank is None else STYLES[bucket(token.rank)]


def score_summary(model: ModelInfo, *, bos: bool, window: int, stride: int) -> str:
    """Return what ran, in one line."""
    first = "a start token before each text" if bos else "no start token: the first token of a text is not scored"
    return f"{model.name} ({model.dtype}, {model.device})  {first}  windows of {window:,}, stride {stride:,}"


def _sum(total: Tally) -> str:
    texts = f"{total.num_texts:,} texts, " if total.num_texts != 1 else ""
    counts = f"{texts}{counted(total.num_tokens, 'token')}, {counted(total.num_bytes, 'byte')}: "
    if not total.num_scored_tokens:
        return counts + "none could be scored"
    return (
        f"{counts}log-probability {total.logprob:,.3f} nats, perplexity {rounded(total.perplexity, 2)}, "
        f"{rounded(total.bits_per_byte, 3)} bits per byte"
    )


class ScoreJsonLines:
    """Writes one object per text."""

    def __init__(self, stream: TextIO, *, tokens: bool) -> None:
        self._stream = stream
        self._tokens = tokens

    def show(self, scored: ScoredText) -> None:
        """See ScoreView."""
        self._stream.write(as_line(item_record(scored, tokens=self._tokens)) + "\n")
        self._stream.flush()

    def finish(self, total: Tally) -> None:
        """Do nothing: there is no total."""


class ScoreJson:
    """Writes one object when all texts are scored."""

    def __init__(
        self, stream: TextIO, model: ModelInfo, made_by: MadeBy, *, tokens: bool, bos: bool, window: int, stride: int
    ) -> None:
        self._tokens = tokens
        self._made_by = made_by
        head = {"model": asdict(model), "bos": bos, "window": window, "stride": stride}
        self._writer = ItemsWriter(stream, head)

    def show(self, scored: ScoredText) -> None:
        """See ScoreView."""
        self._writer.add([as_line(item_record(scored, tokens=self._tokens))])

    def finish(self, total: Tally) -> None:
        """See ScoreView."""
        names = (*(f"top_{bound}" for bound in RANK_BOUNDS), "beyond")
        ranks = dict(zip(names, total.ranks, strict=True))
        record = {"num_texts": total.num_texts, **tally_record(total), "ranks": ranks}
        self._writer.finish({"total": record, "made_by": asdict(self._made_by)})


def item_record(scored: ScoredText, *, tokens: bool) -> dict[str, Any]:
    """Return the JSON of a text, with or without its tokens."""
    place = {"source": scored.source} if scored.source is not None else {}
    line = {"line": scored.line} if scored.line is not None else {}
    kept = {"tokens": [_token_record(token) for token in scored.tokens or ()]} if tokens else {}
    return {"text": scored.text, **place, **line, **kept, **tally_record(scored.tally)}


def tally_record(tally: Tally) -> dict[str, Any]:
    """Return the numbers of one text or of all texts."""
    sums = {name: value for name, value in vars(tally).items() if name not in ("num_texts", "ranks")}
    return {**sums, "perplexity": tally.perplexity, "bits_per_byte": tally.bits_per_byte}


def _token_record(token: TokenScore) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": token.text,
        "logprob": token.logprob,
        "rank": token.rank,
        "entropy": token.entropy,
        **split_bytes(token.bytes),
    }


class ScorePage:
    """Collects scored texts for a page, which shows the first MOST_PAGE_TOKENS and the totals of all."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = []
        self._tokens = 0

    def show(self, scored: ScoredText) -> None:
        """Add a text if there is room."""
        tokens = scored.tokens or ()
        room = MOST_PAGE_TOKENS - self._tokens
        self._tokens += len(tokens)
        if room > 0:
            # As the page's script reads them.
            shown = [
                [visible(text), label(text), token.id, token.logprob, token.rank, token.entropy]
                for text, token in whole_pieces(tokens[:room])
            ]
            self._items.append({"place": _heading(scored), "tokens": shown})

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
            "cut": f"Shown are the first {MOST_PAGE_TOKENS:,} of {self._tokens:,} tokens; the numbers above count all."
            if self._tokens > MOST_PAGE_TOKENS
            else None,
        }
        from genlm.views.pages import make_page, provenance

        return make_page("Score", data, "score", footer=provenance(made_by, model))


def _heading(scored: ScoredText) -> str:
    tally = scored.tally
    place = [visible(scored.source)] if scored.source is not None else []
    line = [f"line {scored.line:,}"] if scored.line is not None else []
    perplexity, bits = rounded(tally.perplexity, 2), rounded(tally.bits_per_byte, 3)
    return " \u00b7 ".join([*place, *line, f"perplexity {perplexity}", f"{bits} bits per byte"])


def _total(total: Tally) -> list[list[str]]:
    return [
        ["texts", f"{total.num_texts:,}"],
        ["tokens", f"{total.num_tokens:,}"],
        ["bytes", f"{total.num_bytes:,}"],
        ["log-probability", f"{total.logprob:,.2f} nats"],
        ["perplexity", rounded(total.perplexity, 2)],
        ["bits per byte", rounded(total.bits_per_byte, 3)],
    ]
