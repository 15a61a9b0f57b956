"""How rows become prompts: several files, columns, templates, ids, and numbers as tables hold them."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from support.batch import read_records, read_table, write_lines
from support.driving import Done
from support.systems import needs_unix

from genlm.formats.rows import InputFile
from genlm.tasks.batch.jobs import id_prefixes


def test_whole_numbers_may_be_floats(run: Callable[..., Done]) -> None:
    """Programs write a column as floats if one number is missing."""
    write_lines(
        "in.jsonl",
        {"id": 3.0, "prompt": "fox", "seed": 4.0, "max_new_tokens": 2.0},
        {"id": None, "prompt": "fox", "seed": None, "max_new_tokens": None},
    )
    Path("in.csv").write_text("prompt,seed,max_new_tokens\nfox,4.0,2.0\nfox,,\n")
    assert run("in.jsonl", "in.csv", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "1").code == 0
    found = [(record["id"], record["seed"], record["max_new_tokens"]) for record in read_records()]
    assert found == [(3, 4, 2), ("in.jsonl:2", 7, 1), ("in.csv:1", 4, 2), ("in.csv:2", 7, 1)]
    assert isinstance(read_records()[0]["id"], int)


def test_files_of_several_formats_follow_each_other(run: Callable[..., Done]) -> None:
    Path("a.txt").write_text("fox\n\nwolf\n")
    Path("b.csv").write_text("id,prompt,n\n7,king,1\n,Hans,2\n")
    Path("c.txt.gz").write_bytes(gzip.compress(b"Once"))
    assert run("a.txt", "b.csv", "c.txt.gz", "-o", "out.jsonl").code == 0
    found = [(record["id"], record["prompt"], record["columns"]) for record in read_records()]
    assert found == [
        ("a.txt:1", "fox", {}),
        ("a.txt:3", "wolf", {}),
        ("7", "king", {"n": "1"}),
        ("b.csv:2", "Hans", {"n": "2"}),
        ("c.txt.gz:1", "Once", {}),
    ]


def test_ids_are_the_same_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [InputFile(name, Path(name), "txt") for name in (r"a\x.txt", r"b\x.txt")]
    monkeypatch.setattr(os, "sep", "\\")
    assert id_prefixes(files) == ["a/x.txt", "b/x.txt"]


@needs_unix("file names are text")
def test_a_file_name_that_is_not_utf_8(run: Callable[..., Done]) -> None:
    path = Path(os.fsdecode(b"in\xff.txt"))
    path.write_text("fox\n")
    assert run(path, "-o", "out.parquet").code == 0
    assert [row["id"] for row in read_table("out.parquet")] == [r"in\udcff.txt:1"]


def test_standard_input(run: Callable[..., Done]) -> None:
    assert run("-", "--input-format", "txt", "-o", "out.jsonl", stdin=b"fox\nwolf\n").code == 0
    assert [record["id"] for record in read_records()] == ["standard input:1", "standard input:2"]
    assert "--input-format" in run("-", "-o", "x.jsonl", stdin=b"fox\n").hint()


def test_columns_can_be_renamed_and_templates_build_prompts(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", {"key": "x", "title": "Fox", "text": "Once", "n": 1}, {"key": "y", "title": "Wolf"})
    done = run("in.jsonl", "-o", "out.jsonl", "--id-field", "key", "--template", r"{title}:\n{text}")
    assert done.code == 3
    first, second = read_records()
    assert (first["id"], first["prompt"]) == ("x", "Fox:\nOnce")
    assert first["columns"] == {"title": "Fox", "text": "Once", "n": 1}
    assert second["error"]["message"] == "'text' is missing, which the template needs"
    assert run("in.jsonl", "-o", "two.jsonl", "--prompt-field", "title").code == 0
    assert [record["prompt"] for record in read_records("two.jsonl")] == ["Fox", "Wolf"]


def test_a_template_may_name_the_id_and_a_prompt_may_be_its_own_id(run: Callable[..., Done]) -> None:
    Path("in.csv").write_text("id,prompt\nfox,Once\n")
    assert run("in.csv", "-o", "out.jsonl", "--template", "{id}: {prompt}").code == 0
    assert [(record["id"], record["prompt"]) for record in read_records()] == [("fox", "fox: Once")]
    assert run("in.csv", "-o", "two.jsonl", "--id-field", "prompt").code == 0
    assert [(record["id"], record["prompt"]) for record in read_records("two.jsonl")] == [("Once", "Once")]


def test_a_table_without_the_prompt_column_is_refused_at_once(run: Callable[..., Done]) -> None:
    Path("in.csv").write_text("title,n\nx,1\n")
    done = run("in.csv", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "in.csv has no column 'prompt'")
    assert "title, n" in done.hint()
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.csv.gz", "in.parquet", "in.parquet.gz"])
def test_an_empty_table_without_the_prompt_column_is_refused_too(run: Callable[..., Done], name: str) -> None:
    data = b"title%bn\n" % (b"\t" if "tsv" in name else b",")
    if "parquet" in name:
        stream = io.BytesIO()
        parquet.write_table(
            pyarrow.table({"title": pyarrow.array([], "string"), "n": pyarrow.array([], "int64")}), stream
        )
        data = stream.getvalue()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    done = run(name, "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, f"{name} has no column 'prompt'")
    assert done.hint() == "it has title, n; --prompt-field NAME selects another"
    assert run(name, "-o", "out.jsonl", "--prompt-field", "title").code == 0


@pytest.mark.parametrize(
    ("name", "option", "hint"),
    [
        ("in.csv", ("--id-field", "key"), "it has id, prompt; --id-field NAME selects another"),
        ("in.txt", ("--template", "{key}"), "it has prompt; --prompt-field NAME selects another"),
        ("in.txt", ("--prompt-field", "key"), "it has prompt; --prompt-field NAME selects another"),
    ],
)
def test_a_column_that_an_option_names_must_exist(
    run: Callable[..., Done], name: str, option: tuple[str, str], hint: str
) -> None:
    Path(name).write_text("id,prompt\nfox,Once\n")
    done = run(name, "-o", "out.jsonl", *option)
    assert (done.error(), done.hint()) == (f"{name} has no column 'key'", hint)


def test_an_empty_separator_is_refused(run: Callable[..., Done]) -> None:
    Path("in.txt").write_text("fox\n")
    done = run("in.txt", "-o", "out.jsonl", "--separator", "")
    assert (done.code, done.error()) == (2, "the separator must not be empty")


def test_duplicate_ids_are_an_error_before_any_work(run: Callable[..., Done]) -> None:
    write_lines("a.jsonl", {"id": "x", "prompt": "fox"}, {"id": 7, "prompt": "fox"})
    write_lines("b.jsonl", {"id": "y", "prompt": "fox"}, {"id": "7", "prompt": "fox"})
    done = run("a.jsonl", "b.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "two rows have the id '7': a.jsonl, line 2 and b.jsonl, line 2")
    assert not Path("out.jsonl").exists()
