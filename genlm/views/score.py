"""Scored texts: coloured by rank, one line each, as a table of tokens, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from genlm.decoding.completion import TracedToken
from genlm.model.info import ModelInfo
from genlm.records.made_by import MadeBy
from genlm.records.score import RANK_BOUNDS, ScoredText, Tally, TokenScore
from genlm.records.serialize import ItemsWriter, as_line, split_bytes
from genlm.views.bars import bar, percent
from genlm.views.terminal import make_console, visible
from genlm.views.tokens import counted, label, shortened

if TYPE_CHECKING:
    from rich.text import Text

BUCKETS = (*(f"top {bound:,}" for bound in RANK_BOUNDS), "beyond")
# GLTR's green, yellow, red and violet. Rare tokens stand out without colours, too.
STYLES = ("green", "yellow", "red underline", "magenta reverse")
UNSCORED = "dim"
BAR_WIDTH = 30

AnyToken = TypeVar("AnyToken", TokenScore, TracedToken)


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
            self._table(scored.tokens)
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
        numbers = f"{_number(tally.perplexity, 1):>10}  {_number(tally.bits_per_byte, 3):>9}  {tally.num_tokens:>6,}  "
        if scored.line is None and scored.source is not None:
            self._console.print(Text(numbers + visible(scored.source)))
        else:
            self._console.print(Text.assemble(numbers, _coloured(scored, label_line)))

    def _table(self, tokens: Sequence[TokenScore]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
        for name in ("token", "id", "log-prob", "rank", "entropy"):
            table.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
        for token in tokens:
            table.add_row(
                Text(shortened(label(token.text, token.bytes), 24), style=_style(token)),
                str(token.id),
                _number(token.logprob, 3),
                "–" if token.rank is None else f"{token.rank:,}",
                _number(token.entropy, 3),
            )
        self._console.print(table)
        self._console.print()


def label_line(text: str) -> str:
    """Return a piece of a text to be shown on one line."""
    return visible(text).replace("\n", "␊").replace("\t", "␉")


def _coloured(scored: ScoredText, show: Any) -> Text:
    """Return the text with each token in the style of its rank; a split character has that of its last token."""
    from rich.text import Text

    if scored.tokens is None:
        return Text(show(scored.text))
    shown = Text()
    for text, token in whole_pieces(scored.tokens):
        shown.append(show(text), style=_style(token))
    return shown


def whole_pieces(tokens: Sequence[AnyToken]) -> list[tuple[str, AnyToken]]:
    """Return the text token by token. The bytes of a split character are joined and belong to its last token."""
    pieces: list[tuple[str, AnyToken]] = []
    held = b""
    for token in tokens:
        if token.bytes is None:
            if held:
                pieces.append((held.decode("utf-8", "replace"), token))
                held = b""
            pieces.append((token.text, token))
            continue
        held += token.bytes
        try:
            pieces.append((held.decode("utf-8"), token))
            held = b""
        except UnicodeDecodeError:
            continue
    if held:
        pieces.append((held.decode("utf-8", "replace"), tokens[-1]))
    return pieces


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
        f"{counts}log-probability {total.logprob:,.3f} nats, perplexity {_number(total.perplexity, 2)}, "
        f"{_number(total.bits_per_byte, 3)} bits per byte"
    )


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:,.{places}f}"


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
        record = {"num_texts": total.num_texts, **tally_record(total), "ranks": ranks_record(total)}
        self._writer.finish({"total": record, "made_by": asdict(self._made_by)})


def item_record(scored: ScoredText, *, tokens: bool) -> dict[str, Any]:
    """Return a text as the JSON of `genlm score`, with or without its tokens."""
    place = {"source": scored.source} if scored.source is not None else {}
    line = {"line": scored.line} if scored.line is not None else {}
    kept = {"tokens": [_token_record(token) for token in scored.tokens or ()]} if tokens else {}
    return {"text": scored.text, **place, **line, **kept, **tally_record(scored.tally)}


def tally_record(tally: Tally) -> dict[str, Any]:
    """Return the numbers of one text or of all texts."""
    return {
        "num_tokens": tally.num_tokens,
        "num_bytes": tally.num_bytes,
        "num_scored_tokens": tally.num_scored_tokens,
        "num_scored_bytes": tally.num_scored_bytes,
        "logprob": tally.logprob,
        "perplexity": tally.perplexity,
        "bits_per_byte": tally.bits_per_byte,
    }


def ranks_record(tally: Tally) -> dict[str, int]:
    """Return how many scored tokens are in each bucket of ranks."""
    names = (*(f"top_{bound}" for bound in RANK_BOUNDS), "beyond")
    return dict(zip(names, tally.ranks, strict=True))


def _token_record(token: TokenScore) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": token.text,
        "logprob": token.logprob,
        "rank": token.rank,
        "entropy": token.entropy,
        **split_bytes(token.bytes),
    }
