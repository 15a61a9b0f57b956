"""Tokens of texts: a table, JSON, ids alone, and texts decoded from ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import repeat
from typing import Any, TextIO

from genlm.model.pieces import Token, Tokens
from genlm.records.inspection import TokenizedText
from genlm.records.made_by import MadeBy
from genlm.records.serialize import ItemsWriter, as_line, split_bytes
from genlm.views.terminal import Writer, make_console, visible
from genlm.views.tokens import chunks, counted, label, write_table


def write_text(stream: TextIO, texts: Iterable[TokenizedText]) -> None:
    """Write a table for each text, with a row for each token, and counts."""
    writer, console = Writer(stream), make_console(stream)
    for number, found in enumerate(texts):
        if number:
            writer.write("\n")
        if found.source is not None:
            place = found.source if found.line is None else f"{found.source}:{found.line}"
            writer.write(visible(place), "bold")
            writer.write("\n")
        if len(found.tokens):
            names = ("#", "token", "id", "characters", "bytes", "mask", "")
            write_table(writer, names, partial(_rows, found.tokens))
        console.print(_counts(found), soft_wrap=False)


def write_ids(stream: TextIO, texts: Iterable[TokenizedText]) -> None:
    """Write the ids of each text on one line."""
    for found in texts:
        for number, chunk in enumerate(chunks(map(str, found.tokens.ids))):
            stream.write((" " if number else "") + " ".join(chunk))
        stream.write("\n")


def write_decoded(stream: TextIO, texts: Iterable[TokenizedText]) -> None:
    """Write the texts that were decoded from ids."""
    writer = Writer(stream)
    for found in texts:
        writer.write(found.text + "\n")


def write_json_lines(stream: TextIO, texts: Iterable[TokenizedText]) -> None:
    """Write one object per text."""
    for found in texts:
        stream.writelines(_record(found))
        stream.write("\n")
        stream.flush()


def write_json(stream: TextIO, texts: Iterable[TokenizedText], model: str) -> None:
    """Write one object when all texts are tokenized."""
    total = {"num_texts": 0, "num_tokens": 0, "num_characters": 0, "num_bytes": 0}
    writer = ItemsWriter(stream, {"model": {"name": model}})
    for found in texts:
        writer.add(_record(found))
        total["num_texts"] += 1
        for name, count in _totals(found).items():
            total[name] += count
    writer.finish({"total": total, "made_by": asdict(MadeBy.now())})


def _rows(tokens: Tokens) -> Iterator[Sequence[str]]:
    for number, token in enumerate(tokens):
        yield (
            str(number),
            label(token.text, None if token.whole else token.bytes),
            str(token.id),
            f"{token.start}-{token.end}",
            f"{token.byte_start}-{token.byte_end}",
            "1",
            "special" if token.special else "" if token.whole else "part of a character",
        )


def _counts(found: TokenizedText) -> str:
    tokens, num_bytes = len(found.tokens), len(found.text.encode("utf-8"))
    per_token = f", {num_bytes / tokens:.2f} bytes a token" if tokens else ""
    counts = (counted(tokens, "token"), counted(len(found.text), "character"), counted(num_bytes, "byte"))
    return ", ".join(counts) + per_token


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
