"""Rows with an error: a record says what is wrong, and the other rows are not affected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.batch import read_records, read_table, rows, texts, write_lines
from support.driving import Done
from support.networks import Cramped, Poisoned, with_network

from genlm.model.load import Model
from genlm.tasks.batch.jobs import Job, run_jobs
from genlm.tasks.batch.run import ModelChoice

BAD = [
    ('{"id": "cut", "prompt": "x"', "in.jsonl:2", "not valid JSON"),
    ('{"id": "none"}', "none", "'prompt' is missing"),
    ('{"id": "null", "prompt": null}', "null", "'prompt' is null"),
    ('{"id": "type", "prompt": 5}', "type", "'prompt' is 5, not text"),
    ('{"id": [1], "prompt": "x"}', "in.jsonl:2", "'id' is [1], not text or a whole number"),
    ('{"id": true, "prompt": "x"}', "in.jsonl:2", "'id' is true"),
    ('{"id": "half", "prompt": "\\ud800"}', "half", "column 'prompt' is not valid Unicode"),
    ('{"id": "long", "prompt": "' + "fox " * 99 + '"}', "long", "beyond the model's context of 96"),
    ('{"id": "kind", "prompt": "x", "strategy": "nope"}', "kind", "no strategy kind 'nope'"),
    ('{"id": "spec", "prompt": "x", "strategy": 7}', "spec", "strategy is 7, not a spec such as"),
    ('{"id": "range", "prompt": "x", "strategy": "top-p:top_p=7"}', "range", "top_p must be"),
    ('{"id": "seed", "prompt": "x", "seed": 1.5}', "seed", "seed is 1.5, not a whole number"),
    ('{"id": "seed", "prompt": "x", "seed": "y"}', "seed", 'seed is "y", not a whole number'),
    ('{"id": "new", "prompt": "x", "max_new_tokens": 0}', "new", "max_new_tokens must be at least 1, not 0"),
    ('{"id": "room", "prompt": "x", "max_new_tokens": 96}', "room", "leave no room for a prompt"),
    ('{"id": "note", "prompt": "x", "note": "\\ud800"}', "note", "column 'note' is not valid Unicode"),
    ('{"id": "deep", "prompt": "x", "n": [{"a": "\\udfff"}]}', "deep", "column 'n' is not valid Unicode"),
    ('{"id": "name", "prompt": "x", "\\ud800": 1}', "name", r"column '\ud800' is not valid Unicode"),
    ('{"id": "big", "prompt": "x", "n": [18446744073709551616]}', "big", "column 'n' holds an integer beyond 64 bits"),
    ('{"id": "low", "prompt": "x", "n": -9223372036854775809}', "low", "column 'n' holds an integer beyond 64 bits"),
    ('{"id": "float", "prompt": "x", "n": 1e999}', "float", "column 'n' holds a number beyond the range of floats"),
    (
        '{"id": "nest", "prompt": "x", "n": ' + "[" * 200 + "]" * 200 + "}",
        "nest",
        "column 'n' is nested too deeply",
    ),
    ('{"id": 18446744073709551616, "prompt": "x"}', "in.jsonl:2", "column 'id' holds an integer beyond 64 bits"),
    ('{"id": "many", "prompt": "x", "max_new_tokens": 9223372036854775808}', "many", f"must be at most {10**18}, not"),
    (
        '{"id": "surrogate", "prompt": "x", "strategy": "\\ud800"}',
        "surrogate",
        "column 'strategy' is not valid Unicode",
    ),
    ('{"id": "quoted", "prompt": "x", "seed": "\\ud800"}', "quoted", "column 'seed' is not valid Unicode"),
    ('{"id": "bias", "prompt": "x", "strategy": "greedy:logit_bias=9999:1"}', "bias", "logit_bias has token 9999"),
]


@pytest.mark.parametrize(("line", "id", "message"), BAD, ids=[message[:20] for _, _, message in BAD])
def test_a_bad_row_is_a_record_with_its_error(run: Callable[..., Done], line: str, id: str, message: str) -> None:
    write_lines("in.jsonl", {"prompt": "fox"}, line, {"prompt": "wolf"})
    done = run("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "3")
    assert done.code == 3
    first, failed, last = read_records()
    assert first["error"] is last["error"] is None
    assert len(first["completions"]) == len(last["completions"]) == 1
    assert (failed["id"], failed["completions"]) == (id, [])
    error = failed["error"]
    assert message in error["message"]
    assert (error["file"], error["row"], error["line"]) == ("in.jsonl", 2, 2)
    assert f"in.jsonl, line 2: {error['message']}" in done.err
    assert "3 of 3 prompts are in out.jsonl  1 of them with an error" in done.err


@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
def test_a_table_has_a_row_for_every_bad_row(run: Callable[..., Done], output: str) -> None:
    write_lines("in.jsonl", *(line for line, id, _ in BAD if id != "cut"))
    options = ("in.jsonl", "-o", output, "--max-new-tokens", "3", "--id-field", "key")
    assert run(*options).code == 3
    found = read_table(output)
    errors = [row["error"] if output.endswith(".csv") else row["error"] and row["error"]["message"] for row in found]
    records = read_records(f"{output}.jsonl")
    assert {row["id"]: error or None for row, error in zip(found, errors, strict=True)} == {
        record["id"]: record["error"] and record["error"]["message"] for record in records
    }
    before = Path(output).read_bytes()
    done = run(*options, "--resume")
    assert (done.code, Path(output).read_bytes() == before) == (3, True), done.err


@pytest.mark.parametrize("line", [BAD[0][0], BAD[7][0]], ids=["seen while reading", "seen by the model"])
def test_a_bad_row_can_stop_the_run(run: Callable[..., Done], line: str) -> None:
    write_lines("in.jsonl", *rows(3), line)
    done = run("in.jsonl", "-o", "out.jsonl", "--on-error", "stop")
    assert done.code == 1
    assert done.error().startswith("in.jsonl, line 4: ")


def test_many_errors_do_not_fill_the_screen(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *["nope"] * 40)
    done = run("in.jsonl", "-o", "out.jsonl")
    assert done.code == 3
    assert done.err.count("not valid JSON") == 10
    assert done.err.count("further errors") == 1
    assert len(read_records()) == 40


def test_only_rows_with_an_error_are_repeated(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines("in.jsonl", *rows(4), {"id": "long", "prompt": "fox " * 99}, *rows(6)[4:])
    options = ("--seed", "3", "--max-new-tokens", "9")
    assert run("in.jsonl", "-o", "out.jsonl", *options).code == 3
    before = read_records()
    assert run("in.jsonl", "-o", "out.jsonl", *options, "--resume").code == 3
    assert read_records() == before
    write_lines("in.jsonl", *rows(4), {"id": "long", "prompt": "fox"}, *rows(6)[4:])
    repeated: list[Any] = []

    def noting(model: Model, jobs: Iterator[Job], **options: Any) -> Iterator[Any]:
        for record in run_jobs(model, jobs, **options):
            repeated.append(record.id)
            yield record

    monkeypatch.setattr("genlm.cli.batch.run_jobs", noting)
    done = run("in.jsonl", "-o", "out.jsonl", *options, "--resume", "--retry-errors")
    assert (done.code, repeated) == (0, ["long"])
    assert "7 of 7 prompts are in out.jsonl" in done.err
    after = read_records()
    assert after[:4] + after[5:] == before[:4] + before[5:]
    assert (after[4]["id"], after[4]["error"], len(after[4]["completions"])) == ("long", None, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("the kernel fell over"), "unexpected RuntimeError: the kernel fell over"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
    ],
)
def test_a_failure_of_the_model_affects_one_row(
    run: Callable[..., Done], model: Model, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines("in.jsonl", *rows(12), {"id": "bad", "prompt": "ÿ"})
    options = ("--seed", "4", "--max-new-tokens", "8")
    run("in.jsonl", "-o", "good.jsonl", *options)
    token = model.tokenizer.encode("ÿ")[-1]
    poisoned = with_network(model, Poisoned(model.network, token, error, at="prompt"))
    monkeypatch.setattr(ModelChoice, "load", lambda _: poisoned)
    assert run("in.jsonl", "-o", "out.jsonl", *options).code == 3
    *records, bad = read_records()
    assert texts(records) == texts(read_records("good.jsonl")[:-1])
    assert (bad["id"], bad["completions"], bad["error"]["message"]) == ("bad", [], message)


def test_a_batch_that_does_not_fit_in_memory_is_halved(
    run: Callable[..., Done], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines("in.jsonl", *rows(20))
    run("in.jsonl", "-o", "good.jsonl", "--seed", "4", "--max-new-tokens", "8")
    cramped = Cramped(model.network, most_rows=5)
    monkeypatch.setattr(ModelChoice, "load", lambda _: with_network(model, cramped))
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "4", "--max-new-tokens", "8").code == 0
    assert texts(read_records()) == texts(read_records("good.jsonl"))
    assert cramped.refused
    assert 1 < max(cramped.rows) <= 5
