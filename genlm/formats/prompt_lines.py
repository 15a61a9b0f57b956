"""Files of prompts, and of human texts to compare with: a line a text, or a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genlm.errors import InputError
from genlm.formats.texts import Text, read_texts


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file: its lines, or the `prompt` of each object of a `.jsonl` file; empty lines are none.

    Raises:
        InputError: a file that cannot be read, is not UTF-8, holds another thing, or no prompt at all.
    """
    found = tuple(_text_of(record, path, number, "prompt") for record, number in _records(path, "prompt"))
    if not found:
        raise InputError(f"{path} holds no prompt")
    return found


def read_human_texts(path: Path) -> tuple[str, ...]:
    """The texts of a file: its lines, or the `text` of each object of a `.jsonl` file, after its `prompt` if any.

    Raises:
        InputError: as `read_prompts`.
    """
    found = []
    for record, number in _records(path, "text"):
        before = _text_of(record, path, number, "prompt") if "prompt" in record else ""
        found.append(before + _text_of(record, path, number, "text"))
    if not any(found):
        raise InputError(f"{path} holds no text")
    return tuple(text for text in found if text)


def _records(path: Path, key: str) -> Iterator[tuple[dict[str, Any], int | None]]:
    """Each line that is not empty as an object, with its number; a plain line has the one key."""
    for line in read_texts(None, [path], "line"):
        if line.text.strip():
            yield (_object(path, line) if path.suffix == ".jsonl" else {key: line.text}), line.line


def _object(path: Path, line: Text) -> dict[str, Any]:
    try:
        found = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {line.line}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}, line {line.line}: not a JSON object")
    return found


def _text_of(record: dict[str, Any], path: Path, number: int | None, key: str) -> str:
    if not isinstance(record.get(key), str):
        raise InputError(f"{path}, line {number}: no text under {key!r}", hint=f'as {{"{key}": "Once upon a time"}}')
    text: str = record[key]
    return text
