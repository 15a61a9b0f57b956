"""Tables of records."""

from __future__ import annotations

import csv
import io

import pytest

from genlm.formats.tables import write_csv


def csv_of(text: str) -> bytes:
    """Return the table of one record that holds a text in three places."""
    record = {
        "id": "1",
        "prompt": text,
        "columns": {"note": text},
        "completions": [{"text": text, "finish_reason": "length", "logprob": -1.0}],
        "model": {"name": "m", "revision": None, "dtype": "float32"},
        "strategy": "greedy",
        "seed": 0,
        "max_new_tokens": 1,
        "error": None,
    }
    written = io.BytesIO()
    write_csv(lambda: [record], written)
    return written.getvalue()


@pytest.mark.parametrize("text", ["\r", "a\rb", "a\nb", "a\r\n", "\r\n", "a,b", '"'])
def test_a_text_in_csv_comes_back_as_it_was(text: str) -> None:
    contents = csv_of(text)
    (row,) = csv.DictReader(io.StringIO(contents.decode(), newline=""))
    assert (row["prompt"], row["note"], row["completion"]) == (text, text, text)
    assert contents.startswith(b"id,prompt,note,completion,")
    assert contents.endswith(b",1,\n")
    assert contents.count(b"\r") == 3 * text.count("\r")


def test_a_text_in_csv_may_hold_a_nul() -> None:
    # The reader of Python 3.10 refuses it, so the bytes are looked at.
    assert csv_of("a\0b").count(b"a\0b,") == 3
