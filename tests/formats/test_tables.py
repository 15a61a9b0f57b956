"""Tables of records."""

from __future__ import annotations

import csv
import io

import pytest

from genlm.formats.tables import write_csv


@pytest.mark.parametrize("text", ["\r", "a\rb", "a\nb", "a\r\n", "\r\n", "a,b", '"'])
def test_a_text_of_csv_keeps_its_line_breaks(text: str) -> None:
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
    contents = written.getvalue()
    (row,) = csv.DictReader(io.StringIO(contents.decode(), newline=""))
    assert (row["prompt"], row["note"], row["completion"]) == (text, text, text)
    assert contents.startswith(b"id,prompt,note,completion,")
    assert contents.endswith(b",1,\n")
    assert contents.count(b"\r") == 3 * text.count("\r")
