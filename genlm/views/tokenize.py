"""Tokens of texts: a table, JSON, ids alone, and texts decoded from ids."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol, TextIO

from genlm.model.pieces import Token
from genlm.records.made_by import MadeBy
from genlm.records.serialize import ItemsWriter, as_line, split_bytes
from genlm.records.tokenize import TokenizedText
from genlm.views.terminal import Writer, make_console, visible
from genlm.views.tokens import counted, label, shortened


class TokensView(Protocol):
    """Shows the tokens of texts as they come."""

    def show(self, found: TokenizedText) -> None:
        """Show a text."""
        ...

    def finish(self) -> None:
        """Write what follows the last text."""
        ...


class TokensText:
    """Writes a table with a row for each token, then the counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = make_console(stream)
        self._shown = 0

    def show(self, found: TokenizedText) -> None:
        """Show a text."""
        if self._shown:
            self._console.print()
        self._shown += 1
        if found.source is not None:
            place = found.source if found.line is None else f"{found.source}:{found.line}"
            self._console.print(visible(place), style="bold")
        self._console.print(self._table(found.tokens))
        if found.tokens:
            self._console.print()
        self._console.print(_counts(found), soft_wrap=False)

    def finish(self) -> None:
        """Do nothing: there is no total."""

    def _table(self, tokens: tuple[Token, ...]) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim", show_header=bool(tokens))
        for name in ("#", "token", "id", "characters", "bytes", "mask", ""):
            table.add_column(name, justify="left" if name in ("token", "") else "right", no_wrap=True)
        for number, token in enumerate(tokens):
            table.add_row(
                str(number),
                Text(shortened(label(token.text, None if token.whole else token.bytes), 32)),
                str(token.id),
                f"{token.start}-{token.end}",
                f"{token.byte_start}-{token.byte_end}",
                "1",
                Text(_remark(token), style="dim"),
            )
        return table


def _remark(token: Token) -> str:
    if token.special:
        return "special"
    return "" if token.whole else "part of a character"


def _counts(found: TokenizedText) -> str:
    tokens, num_bytes = len(found.tokens), len(found.text.encode("utf-8"))
    per_token = f", {num_bytes / tokens:.2f} bytes a token" if tokens else ""
    counts = (counted(tokens, "token"), counted(len(found.text), "character"), counted(num_bytes, "byte"))
    return ", ".join(counts) + per_token


class TokenIds:
    """Writes the ids of each text on one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, found: TokenizedText) -> None:
        """Show a text's ids."""
        self._stream.write(" ".join(str(token.id) for token in found.tokens) + "\n")

    def finish(self) -> None:
        """Do nothing: there is no total."""


class DecodedText:
    """Writes the texts decoded from ids."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = Writer(stream)

    def show(self, found: TokenizedText) -> None:
        """Show a text."""
        self._writer.write(found.text + "\n")

    def finish(self) -> None:
        """Do nothing: there is no total."""


class TokensJsonLines:
    """Writes one object per text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, found: TokenizedText) -> None:
        """Show a text."""
        self._stream.write(as_line(tokens_record(found)) + "\n")
        self._stream.flush()

    def finish(self) -> None:
        """Do nothing: there is no total."""


class TokensJson:
    """Writes one object when all texts are tokenized."""

    def __init__(self, stream: TextIO, model: str) -> None:
        self._total = {"num_texts": 0, "num_tokens": 0, "num_characters": 0, "num_bytes": 0}
        self._writer = ItemsWriter(stream, {"model": {"name": model}})

    def show(self, found: TokenizedText) -> None:
        """Show a text."""
        record = tokens_record(found)
        self._writer.add([as_line(record)])
        self._total["num_texts"] += 1
        for name in ("num_tokens", "num_characters", "num_bytes"):
            self._total[name] += record[name]

    def finish(self) -> None:
        """Write the total of all texts."""
        self._writer.finish({"total": self._total, "made_by": asdict(MadeBy.now())})


def tokens_record(found: TokenizedText) -> dict[str, Any]:
    """Return a text as the JSON of `genlm tokenize`."""
    place = {"source": found.source} if found.source is not None else {}
    line = {"line": found.line} if found.line is not None else {}
    return {
        "text": found.text,
        **place,
        **line,
        "ids": [token.id for token in found.tokens],
        "attention_mask": [1] * len(found.tokens),
        "tokens": [token_record(token) for token in found.tokens],
        "num_tokens": len(found.tokens),
        "num_characters": len(found.text),
        "num_bytes": len(found.text.encode("utf-8")),
    }


def token_record(token: Token) -> dict[str, Any]:
    """Return a token with its offsets: characters are code points, bytes are UTF-8; ends are exclusive."""
    return {
        "id": token.id,
        "piece": token.piece,
        "text": token.text,
        "start": token.start,
        "end": token.end,
        "byte_start": token.byte_start,
        "byte_end": token.byte_end,
        "special": token.special,
        **split_bytes(None if token.whole else token.bytes),
    }
