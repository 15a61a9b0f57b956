"""Tokens of texts: a table, JSON, ids alone, and texts decoded from ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice, repeat
from typing import Any, Protocol, TextIO, TypeVar

from genlm.model.pieces import Token, Tokens
from genlm.records.inspection import TokenizedText
from genlm.records.made_by import MadeBy
from genlm.records.serialize import ItemsWriter, as_line, split_bytes
from genlm.views.terminal import Writer, make_console, visible
from genlm.views.tokens import counted, label, shortened

T = TypeVar("T")

# Rows or tokens that are written at once.
CHUNK = 1000
LEAST_TOKEN_WIDTH, LARGEST_TOKEN_WIDTH = 8, 32


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
            self._write_table(found.tokens)
        self._console.print(_counts(found), soft_wrap=False)

    def finish(self) -> None:
        """Do nothing: there is no total."""

    def _write_table(self, tokens: Tokens) -> None:
        """Write the rows as they are formatted. A Rich table would take most of a millisecond for each."""
        from rich.cells import cell_len

        labels: dict[int, str] = {}
        longest = [0, 0, 0]
        for token in tokens:
            if token.id not in labels:
                labels[token.id] = label(token.text, None if token.whole else token.bytes)
            longest = list(map(max, longest, (token.end, token.byte_end, len(_remark(token)))))
        end, byte_end, remark = longest
        widths = [
            len(str(len(tokens) - 1)),
            max(len("token"), *map(cell_len, labels.values())),
            max(len("id"), *(len(str(id)) for id in labels)),
            max(len("characters"), len(f"{end}-{end}")),
            max(len("bytes"), len(f"{byte_end}-{byte_end}")),
            len("mask"),
        ]
        room = self._console.width - sum(widths) + widths[1] - 2 * len(widths) - remark
        widths[1] = min(widths[1], LARGEST_TOKEN_WIDTH, max(LEAST_TOKEN_WIDTH, room))
        cells = {id: _padded(shortened(text, widths[1]), widths[1]) for id, text in labels.items()}
        head = ("#", _padded("token", widths[1]), "id", "characters", "bytes", "mask", "")
        self._writer.write(_row(head, widths), "dim")
        rows = (
            _row(
                (
                    str(number),
                    cells[token.id],
                    str(token.id),
                    f"{token.start}-{token.end}",
                    f"{token.byte_start}-{token.byte_end}",
                    "1",
                    _remark(token),
                ),
                widths,
            )
            for number, token in enumerate(tokens)
        )
        for chunk in chunks(rows):
            self._writer.write("".join(chunk))
        self._writer.write("\n")


def _padded(text: str, width: int) -> str:
    from rich.cells import cell_len

    return text + " " * (width - cell_len(text))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line; all cells but those of tokens and remarks are right-justified."""
    *columns, remark = cells
    shown = [
        cell if at == 1 else cell.rjust(width) for at, (cell, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return "  ".join([*shown, remark]).rstrip() + "\n"


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


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield the values in lists that are neither long nor many."""
    remaining = iter(values)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


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
