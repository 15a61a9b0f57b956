"""Records as CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet
from support.batch import read_records, read_table, rows, texts, write_lines
from support.driving import Done

from genlm.records.batch import BatchRecord
from genlm.records.made_by import Versions
from genlm.records.serialize import from_builtins
from genlm.tasks.batch.tables import write_csv


def test_csv(run: Callable[..., Done]) -> None:
    write_lines(
        "in.jsonl", {"id": 1, "prompt": "fox,\n", "model": "m", "n": 1}, {"id": 2, "n": [1]}, {"id": 3, "prompt": "x"}
    )
    run("in.jsonl", "-o", "out.csv", "--seed", "2", "--max-new-tokens", "5", "-n", "2")
    first, second, third = csv.DictReader(io.StringIO(Path("out.csv").read_text()))
    records = sorted(read_records("out.csv.jsonl"), key=lambda record: record["id"])
    assert [first["completion_1"], first["completion_2"]] == texts(records)[0]
    assert (first["id"], first["prompt"], first["columns.model"], first["n"]) == ("1", "fox,\n", "m", "1")
    assert (second["error"], second["n"], second["completion_1"]) == ("'prompt' is missing", "[1]", "")
    assert first["made_by"] == str(Versions.installed())
    assert (third["strategy"], third["seed"], third["dtype"], third["n"]) == ("top-p:top_p=0.9", "2", "float32", "")


def test_parquet(run: Callable[..., Done]) -> None:
    write_lines(
        "in.jsonl", {"id": 1, "prompt": "fox", "n": 1, "f": 1, "t": "a"}, {"id": 2, "n": 2, "f": 0.5, "t": True}
    )
    run("in.jsonl", "-o", "out.parquet", "--seed", "2", "--max-new-tokens", "5")
    table = parquet.read_table("out.parquet").to_pylist()
    records = sorted(read_records("out.parquet.jsonl"), key=lambda record: record["id"])
    assert [row["completions"] for row in table] == [record["completions"] for record in records]
    assert [(row["id"], row["n"], row["f"], row["t"]) for row in table] == [(1, 1, 1.0, "a"), (2, 2, 0.5, "true")]
    assert [row["made_by"] for row in table] == [record["made_by"] for record in records]
    assert [row["error"] for row in table] == [record["error"] for record in records]
    assert [(row["model"], row["seed"]) for row in table] == [(records[0]["model"]["name"], 2)] * 2


@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
@pytest.mark.parametrize(("option", "ran"), [("--template={title}: {prompt}", "T: fox"), ("--prompt-field=title", "T")])
def test_a_column_named_prompt_stays_beside_the_prompt_that_ran(
    run: Callable[..., Done], output: str, option: str, ran: str
) -> None:
    write_lines("in.jsonl", {"id": "a", "prompt": "fox", "title": "T", "model_prompt": "mine"})
    assert run("in.jsonl", "-o", output, "--max-new-tokens", "2", option).code == 0
    (row,) = read_table(output)
    assert (row["model_prompt"], row["prompt"], row["columns.model_prompt"]) == (ran, "fox", "mine")
    assert list(row)[:2] == ["id", "model_prompt"]


def test_without_a_column_named_prompt_the_prompt_that_ran_has_that_name(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", {"id": "a", "title": "T", "model_prompt": "mine"})
    assert run("in.jsonl", "-o", "out.csv", "--max-new-tokens", "2", "--template", "{title}!").code == 0
    (row,) = read_table("out.csv")
    assert (row["prompt"], row["title"], row["model_prompt"]) == ("T!", "T", "mine")


@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
def test_a_table_is_made_again_from_its_records(run: Callable[..., Done], output: str) -> None:
    write_lines("in.jsonl", *rows())
    options = ("--seed", "2", "--max-new-tokens", "5", "--deterministic")
    run("in.jsonl", "-o", output, *options)
    expected = Path(output).read_bytes()
    lines = Path(f"{output}.jsonl").read_text().splitlines(keepends=True)
    Path(f"{output}.jsonl").write_text("".join(lines[3:]) + lines[0][:40])
    Path(output).unlink()
    assert run("in.jsonl", "-o", output, *options, "--resume").code == 0
    assert Path(output).read_bytes() == expected
    assert len(read_records(f"{output}.jsonl")) == 14
    Path(f"{output}.jsonl").unlink()
    assert "which --resume needs" in run("in.jsonl", "-o", output, "--resume").error()


FORMULA = '=HYPERLINK("http://example.org","x")'


def test_csv_safe_quotes_texts_and_nothing_else(run: Callable[..., Done]) -> None:
    row = {"id": "-1", "prompt": FORMULA, "@name": "+1", "n": -5, "f": -0.5, "list": [-1], "plain": "a=1"}
    write_lines("in.jsonl", row, {"id": -2, "prompt": None})
    options = ("in.jsonl", "-o", "out.csv", "--max-new-tokens", "2", "--seed", "-7")
    assert run(*options).code == 3
    assert [cell for cell in read_table("out.csv")[0] if cell.startswith("'")] == []
    assert run(*options, "--csv-safe", "--resume").code == 3
    first, second = read_table("out.csv")
    assert (first["id"], first["prompt"], first["'@name"]) == ("'-1", f"'{FORMULA}", "'+1")
    assert (first["n"], first["f"], first["list"], first["plain"]) == ("-5", "-0.5", "[-1]", "a=1")
    assert (second["id"], second["seed"], second["error"]) == ("-2", "-7", "'prompt' is null")
    assert float(first["logprob"]) < 0


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
def test_csv_safe_is_for_csv_only(run: Callable[..., Done], output: str) -> None:
    write_lines("in.jsonl", *rows(1))
    done = run("in.jsonl", "-o", output, "--csv-safe")
    assert (done.code, done.error()) == (2, f"{output} is not CSV: only CSV has texts that a spreadsheet may run")
    assert done.hint() == "drop --csv-safe"
    assert not Path(output).exists()


def csv_of(text: str) -> bytes:
    """Return the table of one record that holds a text in three places."""
    record = {
        "id": "1",
        "prompt": text,
        "completions": [{"index": 0, "text": text, "token_ids": [1], "finish_reason": "length", "logprob": -1.0}],
        "model": {"name": "m", "revision": None, "fingerprint": None, "dtype": "float32"},
        "strategy": "greedy",
        "seed": 0,
        "max_new_tokens": 1,
        "num_return_sequences": 1,
        "stop": [],
        "overflow": "error",
        "deterministic": False,
        "made_by": {"genlm": "1", "torch": "2", "transformers": "5"},
        "columns": {"note": text},
        "error": None,
    }
    written = io.BytesIO()
    write_csv(lambda: [from_builtins(BatchRecord, record)], written)
    return written.getvalue()


@pytest.mark.parametrize("text", ["\r", "a\rb", "a\nb", "a\r\n", "\r\n", "a,b", '"'])
def test_a_text_in_csv_is_read_back_unchanged(text: str) -> None:
    contents = csv_of(text)
    (row,) = csv.DictReader(io.StringIO(contents.decode(), newline=""))
    assert (row["prompt"], row["note"], row["completion"]) == (text, text, text)
    assert contents.startswith(b"id,prompt,note,completion,")
    assert contents.endswith(b'transformers 5",\n')
    assert contents.count(b"\r") == 3 * text.count("\r")


def test_a_text_in_csv_may_hold_a_nul() -> None:
    # The reader of Python 3.10 refuses it, so the bytes are looked at.
    assert csv_of("a\0b").count(b"a\0b,") == 3
