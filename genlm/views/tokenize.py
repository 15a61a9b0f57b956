"""Tokens of texts: a table, JSON, ids alone, and texts decoded from ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import repeat
from typing import Any, Protocol, TextIO

from genlm.model.pieces import Token, Tokens
from genlm.records.inspection import TokenizedText
from genlm.records.made_by import MadeBy
from genlm.records.serialize import ItemsWriter, as_line, split_bytes
from genlm.views.terminal import Writer, make_console, visible
from genlm.views.tokens import chunks, counted, label, write_table


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
        self._writer = Writer(stream)
        self._console = make_console(stream)
        self._shown = 0

    def show(self, found: TokenizedText) -> None:
        """Show a text."""
        if self._shown:
            self._writer.write("\n")
        self._shown += 1
        if found.source is not None:
            place = found.source if found.line is None else f"{found.source}:{found.line}"
            self._writer.write(visible(place), "bold")
            self._writer.write("\n")
        if len(found.tokens):
            names = ("#", "token", "id", "characters", "bytes", "mask", "")
            write_table(self._writer, names, lambda: _rows(found.tokens))
        self._console.print(_counts(found), soft_wrap=False)

    def finish(self) -> None:
        """Do nothing: there is no total."""


def _rows(tokens: Tokens) -> Iterator[Sequence[str]]:
    for number, token in enumerate(tokens):
        yield (
            str(number),
            label(token.text, None if token.whole else token.bytes),
            str(token.id),
            f"{token.start}-{token.end}",
            f"{token.byte_start}-{token.byte_end}",
            "1",
            _remark(token),
        )


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
        for number, chunk in enumerate(chunks(map(str, found.tokens.ids))):
            self._stream.write((" " if number else "") + " ".join(chunk))
        self._stream.write("\n")

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
        self._stream.writelines(_record(found))
        self._stream.write("\n")
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
        self._writer.add(_record(found))
        self._total["num_texts"] += 1
        for name, count in _totals(found).items():
            self._total[name] += count

    def finish(self) -> None:
        """Write the total of all texts."""
        self._writer.finish({"total": self._total, "made_by": asdict(MadeBy.now())})


def _record(found: TokenizedText) -> Iterator[str]:
    """Yield a text as the JSON of `genlm tokenize`, in pieces: a long text has many tokens."""
    place = {"source": found.source} if found.source is not None else {}
    line = {"line": found.line} if found.line is not None else {}
    yield as_line({"text": found.text, **place, **line})[:-1]
    lists: dict[str, Iterable[Any]] = {
        "ids": found.tokens.ids,
        "attention_mask": repeat(1, len(found.tokens)),
        "tokens": map(token_record, found.tokens),
    }
    for name, values in lists.items():
        yield f', "{name}": ['
        for number, chunk in enumerate(chunks(values)):
            yield (", " if number else "") + as_line(chunk)[1:-1]
        yield "]"
    yield ", " + as_line(_totals(found))[1:]


def _totals(found: TokenizedText) -> dict[str, int]:
    return {
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
