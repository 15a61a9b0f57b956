"""`genlm batch`, driven as a user does: rows in, a record for each out, nothing lost."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet
from support.driving import Done, FakeTerminal, call
from support.gpt2 import save_gpt2
from support.networks import count_rows, out_of_memory

import genlm
from genlm.api import LanguageModel
from genlm.cli import batch as command
from genlm.cli.options import ModelOptions
from genlm.decoding.kinds import KINDS
from genlm.formats.journal import open_journal
from genlm.formats.rows import InputFile, open_inputs
from genlm.model.fingerprint import fingerprinted
from genlm.model.gpt2 import GPT2
from genlm.model.load import Model
from genlm.model.source import find_model
from genlm.records.batch import BatchCounts
from genlm.tasks.batch.jobs import Fields, Job, Settings, names_of
from genlm.tasks.batch.ledger import open_ledger
from genlm.tasks.batch.run import Batch
from genlm.tasks.batch.work import run_jobs
from genlm.tasks.generate import DEFAULT_STRATEGY, Limits
from genlm.views import batch as views

Record = dict[str, Any]
WORDS = ("Once upon a time", "The king", "fox", "Who goes there?", "naïve café", "The wolf said", "Hans")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 whose texts end at many lengths."""
    ends = list(range(0, 300, 17))
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny", eos_token_id=ends, n_positions=96)


@pytest.fixture(scope="module")
def lm(folder: Path) -> LanguageModel:
    return genlm.load(str(folder), device="cpu")


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs the command with the tiny model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
        return call("batch", *arguments, "-m", folder, "--device", "cpu", stdin=stdin)

    return run


def write_lines(path: str, *objects: Record | str) -> None:
    lines = (each if isinstance(each, str) else json.dumps(each) for each in objects)
    Path(path).write_text("".join(f"{line}\n" for line in lines))


def many(count: int = 14) -> list[Record]:
    return [{"id": f"row {number}", "prompt": " ".join(WORDS[: 1 + number % 7])} for number in range(count)]


def read(path: str = "out.jsonl") -> list[Record]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def fingerprint_of(model: Path) -> str | None:
    return fingerprinted(find_model(str(model))).fingerprint


def texts(records: list[Record]) -> list[list[str]]:
    return [[completion["text"] for completion in record["completions"]] for record in records]


# What comes out.


def test_every_record_says_what_generate_gives_for_its_prompt(
    run: Callable[..., Done], lm: LanguageModel, folder: Path
) -> None:
    write_lines("in.jsonl", *many())
    done = run("in.jsonl", "-o", "out.jsonl", "--seed", "5", "--max-new-tokens", "20", "-n", "2", "--stop", "e")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("14 of 14 prompts are in out.jsonl")
    for row, record in zip(many(), read(), strict=True):
        alone = lm.generate(row["prompt"], seed=5, max_new_tokens=20, num_return_sequences=2, stop="e")
        assert [each.pop("logprob") for each in record["completions"]] == pytest.approx(
            [each.logprob for each in alone.completions], abs=1e-3
        )
        assert record == {
            "id": row["id"],
            "prompt": row["prompt"],
            "completions": [
                {
                    "index": each.index,
                    "text": each.text,
                    "token_ids": list(each.token_ids),
                    "finish_reason": each.finish_reason,
                }
                for each in alone.completions
            ],
            "model": {
                "name": lm.info.name,
                "revision": None,
                "fingerprint": fingerprint_of(folder),
                "dtype": "float32",
            },
            "strategy": "top-p:top_p=0.9",
            "seed": 5,
            "max_new_tokens": 20,
            "num_return_sequences": 2,
            "stop": ["e"],
            "overflow": "error",
            "deterministic": False,
            "columns": {},
            "error": None,
        }


def test_whole_numbers_may_be_floats_as_in_a_column_that_misses_one(run: Callable[..., Done]) -> None:
    write_lines(
        "in.jsonl",
        {"id": 3.0, "prompt": "fox", "seed": 4.0, "max_new_tokens": 2.0},
        {"id": None, "prompt": "fox", "seed": None, "max_new_tokens": None},
    )
    Path("in.csv").write_text("prompt,seed,max_new_tokens\nfox,4.0,2.0\nfox,,\n")
    assert run("in.jsonl", "in.csv", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "1").code == 0
    found = [(record["id"], record["seed"], record["max_new_tokens"]) for record in read()]
    assert found == [(3, 4, 2), ("in.jsonl:2", 7, 1), ("in.csv:1", 4, 2), ("in.csv:2", 7, 1)]
    assert isinstance(read()[0]["id"], int)


def test_a_row_may_have_its_own_strategy_seed_and_length(run: Callable[..., Done], lm: LanguageModel) -> None:
    rows = [
        {"prompt": prompt, "strategy": kind, "seed": number, "max_new_tokens": 3 + number, "tag": [number]}
        for number, (kind, prompt) in enumerate((kind, prompt) for kind in KINDS for prompt in WORDS[:3])
    ]
    write_lines("in.jsonl", *rows, {"prompt": "fox", "strategy": None, "seed": None})
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "99").code == 0
    *records, last = read()
    for number, (row, record) in enumerate(zip(rows, records, strict=True), 1):
        alone = lm.generate(
            str(row["prompt"]), strategy=str(row["strategy"]), seed=int(str(row["seed"])), max_new_tokens=2 + number
        )
        assert texts([record]) == [[alone.completions[0].text]]
        assert (record["id"], record["columns"]) == (f"in.jsonl:{number}", {"tag": [number - 1]})
        assert (record["strategy"], record["seed"]) == (alone.strategy.spec, row["seed"])
        assert record["max_new_tokens"] == row["max_new_tokens"]
    assert (last["strategy"], last["seed"], last["max_new_tokens"]) == ("top-p:top_p=0.9", 99, 50)


@pytest.mark.parametrize("size", ["1", "3", "auto"])
def test_the_size_of_the_batch_changes_no_byte_of_a_deterministic_run(run: Callable[..., Done], size: str) -> None:
    write_lines("in.jsonl", *many())
    options = ("--seed", "1", "--max-new-tokens", "15", "--deterministic")
    run("in.jsonl", "-o", "one.jsonl", *options)
    assert run("in.jsonl", "-o", "out.jsonl", *options, "--batch-size", size).code == 0
    assert Path("out.jsonl").read_bytes() == Path("one.jsonl").read_bytes()


def test_duplicates_of_a_prompt_are_all_done(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *({"prompt": "fox"} for _ in range(5)))
    assert run("in.jsonl", "-o", "out.jsonl").code == 0
    assert len(read()) == 5
    assert len(set(map(str, texts(read())))) == 1


def test_records_stand_in_the_order_of_the_input_or_as_they_were_finished(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *({"id": n, "prompt": "fox" * (1 + n), "max_new_tokens": 20 - n} for n in range(10)))
    run("in.jsonl", "-o", "out.jsonl", "--seed", "1", "--batch-size", "4")
    assert [record["id"] for record in read()] == list(range(10))
    run("in.jsonl", "-o", "un.jsonl", "--seed", "1", "--batch-size", "4", "--unordered")
    ids = [record["id"] for record in read("un.jsonl")]
    assert ids != sorted(ids) == list(range(10))
    assert sorted(read("un.jsonl"), key=lambda each: each["id"]) == read()


def test_files_of_several_kinds_follow_each_other(run: Callable[..., Done]) -> None:
    Path("a.txt").write_text("fox\n\nwolf\n")
    Path("b.csv").write_text("id,prompt,n\n7,king,1\n,Hans,2\n")
    Path("c.txt.gz").write_bytes(gzip.compress(b"Once"))
    assert run("a.txt", "b.csv", "c.txt.gz", "-o", "out.jsonl").code == 0
    found = [(record["id"], record["prompt"], record["columns"]) for record in read()]
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
    assert names_of(files) == ["a/x.txt", "b/x.txt"]


def test_standard_input(run: Callable[..., Done]) -> None:
    assert run("-", "--input-format", "txt", "-o", "out.jsonl", stdin=b"fox\nwolf\n").code == 0
    assert [record["id"] for record in read()] == ["standard input:1", "standard input:2"]
    assert "--input-format" in run("-", "-o", "x.jsonl", stdin=b"fox\n").hint()


def test_columns_have_names_of_their_own_and_templates_build_prompts(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", {"key": "x", "title": "Fox", "text": "Once", "n": 1}, {"key": "y", "title": "Wolf"})
    done = run("in.jsonl", "-o", "out.jsonl", "--id-field", "key", "--template", r"{title}:\n{text}")
    assert done.code == 3
    first, second = read()
    assert (first["id"], first["prompt"]) == ("x", "Fox:\nOnce")
    assert first["columns"] == {"title": "Fox", "text": "Once", "n": 1}
    assert second["error"]["message"] == "'text' is missing, which the template needs"
    assert run("in.jsonl", "-o", "two.jsonl", "--prompt-field", "title").code == 0
    assert [record["prompt"] for record in read("two.jsonl")] == ["Fox", "Wolf"]


def test_a_table_without_the_column_is_refused_at_once(run: Callable[..., Done]) -> None:
    Path("in.csv").write_text("title,n\nx,1\n")
    done = run("in.csv", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "in.csv has no column 'prompt'")
    assert "title, n" in done.hint()
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.csv.gz", "in.parquet", "in.parquet.gz"])
def test_a_table_without_rows_is_refused_for_its_columns_too(run: Callable[..., Done], name: str) -> None:
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
    assert done.hint() == "it has title, n; --prompt-field names another"
    assert run(name, "-o", "out.jsonl", "--prompt-field", "title").code == 0


def test_csv(run: Callable[..., Done]) -> None:
    write_lines(
        "in.jsonl", {"id": 1, "prompt": "fox,\n", "model": "m", "n": 1}, {"id": 2, "n": [1]}, {"id": 3, "prompt": "x"}
    )
    run("in.jsonl", "-o", "out.csv", "--seed", "2", "--max-new-tokens", "5", "-n", "2")
    first, second, third = csv.DictReader(io.StringIO(Path("out.csv").read_text()))
    records = sorted(read("out.csv.jsonl"), key=lambda record: record["id"])
    assert [first["completion_1"], first["completion_2"]] == texts(records)[0]
    assert (first["id"], first["prompt"], first["columns.model"], first["n"]) == ("1", "fox,\n", "m", "1")
    assert (second["error"], second["n"], second["completion_1"]) == ("'prompt' is missing", "[1]", "")
    assert (third["strategy"], third["seed"], third["dtype"], third["n"]) == ("top-p:top_p=0.9", "2", "float32", "")


def test_parquet(run: Callable[..., Done]) -> None:
    write_lines(
        "in.jsonl", {"id": 1, "prompt": "fox", "n": 1, "f": 1, "t": "a"}, {"id": 2, "n": 2, "f": 0.5, "t": True}
    )
    run("in.jsonl", "-o", "out.parquet", "--seed", "2", "--max-new-tokens", "5")
    rows = parquet.read_table("out.parquet").to_pylist()
    records = sorted(read("out.parquet.jsonl"), key=lambda record: record["id"])
    assert [row["completions"] for row in rows] == [record["completions"] for record in records]
    assert [(row["id"], row["n"], row["f"], row["t"]) for row in rows] == [(1, 1, 1.0, "a"), (2, 2, 0.5, "true")]
    assert [row["error"] for row in rows] == [record["error"] for record in records]
    assert [(row["model"], row["seed"]) for row in rows] == [(records[0]["model"]["name"], 2)] * 2


@pytest.mark.parametrize("output", ["out.csv", "out.parquet"])
def test_a_table_is_made_again_from_its_records(run: Callable[..., Done], output: str) -> None:
    write_lines("in.jsonl", *many())
    options = ("--seed", "2", "--max-new-tokens", "5", "--deterministic")
    run("in.jsonl", "-o", output, *options)
    whole = Path(output).read_bytes()
    lines = Path(f"{output}.jsonl").read_text().splitlines(keepends=True)
    Path(f"{output}.jsonl").write_text("".join(lines[3:]) + lines[0][:40])
    Path(output).unlink()
    assert run("in.jsonl", "-o", output, *options, "--resume").code == 0
    assert Path(output).read_bytes() == whole
    assert len(read(f"{output}.jsonl")) == 14
    Path(f"{output}.jsonl").unlink()
    assert "which --resume needs" in run("in.jsonl", "-o", output, "--resume").error()


# Rows that fail.


BAD = [
    ('{"id": "cut", "prompt": "x"', "in.jsonl:2", "not valid JSON"),
    ('{"id": "none"}', "none", "'prompt' is missing"),
    ('{"id": "null", "prompt": null}', "null", "'prompt' is null"),
    ('{"id": "type", "prompt": 5}', "type", "'prompt' is 5, where text must be"),
    ('{"id": [1], "prompt": "x"}', "in.jsonl:2", "'id' is [1], where text or a whole number must be"),
    ('{"id": true, "prompt": "x"}', "in.jsonl:2", "'id' is true"),
    ('{"id": "half", "prompt": "\\ud800"}', "half", "the prompt is not valid Unicode"),
    ('{"id": "long", "prompt": "' + "fox " * 99 + '"}', "long", "beyond the model's context of 96"),
    ('{"id": "kind", "prompt": "x", "strategy": "nope"}', "kind", "no strategy kind 'nope'"),
    ('{"id": "spec", "prompt": "x", "strategy": 7}', "spec", "strategy is 7, where a spec such as"),
    ('{"id": "range", "prompt": "x", "strategy": "top-p:top_p=7"}', "range", "top_p must be"),
    ('{"id": "seed", "prompt": "x", "seed": 1.5}', "seed", "seed is 1.5, where a whole number must be"),
    ('{"id": "seed", "prompt": "x", "seed": "y"}', "seed", 'seed is "y", where a whole number must be'),
    ('{"id": "new", "prompt": "x", "max_new_tokens": 0}', "new", "max_new_tokens must be at least 1, not 0"),
    ('{"id": "room", "prompt": "x", "max_new_tokens": 96}', "room", "leave no room for a prompt"),
    ('{"id": "bias", "prompt": "x", "strategy": "greedy:logit_bias=9999:1"}', "bias", "logit_bias has token 9999"),
]


@pytest.mark.parametrize(("line", "id", "message"), BAD, ids=[message[:20] for _, _, message in BAD])
def test_a_bad_row_is_a_record_with_its_error(run: Callable[..., Done], line: str, id: str, message: str) -> None:
    write_lines("in.jsonl", {"prompt": "fox"}, line, {"prompt": "wolf"})
    done = run("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "3")
    assert done.code == 3
    first, failed, last = read()
    assert first["error"] is last["error"] is None
    assert len(first["completions"]) == len(last["completions"]) == 1
    assert (failed["id"], failed["completions"]) == (id, [])
    error = failed["error"]
    assert message in error["message"]
    assert (error["file"], error["row"], error["line"]) == ("in.jsonl", 2, 2)
    assert f"in.jsonl, line 2: {error['message']}" in done.err
    assert "3 of 3 prompts are in out.jsonl  1 of them with an error" in done.err


@pytest.mark.parametrize("line", [BAD[0][0], BAD[7][0]], ids=["seen at once", "seen by the model"])
def test_a_bad_row_may_stop_the_run(run: Callable[..., Done], line: str) -> None:
    write_lines("in.jsonl", *many(3), line)
    done = run("in.jsonl", "-o", "out.jsonl", "--on-error", "stop")
    assert done.code == 1
    assert done.error().startswith("in.jsonl, line 4: ")


def test_many_bad_rows_are_not_told_one_by_one(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *["nope"] * 40)
    done = run("in.jsonl", "-o", "out.jsonl")
    assert done.code == 3
    assert done.err.count("not valid JSON") == 10
    assert done.err.count("further failures") == 1
    assert len(read()) == 40


def test_failed_rows_alone_are_done_again(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines("in.jsonl", *many(4), {"id": "long", "prompt": "fox " * 99}, *many(6)[4:])
    options = ("--seed", "3", "--max-new-tokens", "9")
    assert run("in.jsonl", "-o", "out.jsonl", *options).code == 3
    before = read()
    assert run("in.jsonl", "-o", "out.jsonl", *options, "--resume").code == 3
    assert read() == before
    write_lines("in.jsonl", *many(4), {"id": "long", "prompt": "fox"}, *many(6)[4:])
    done_again: list[Any] = []

    def noted(model: Model, jobs: Iterator[Job], **options: Any) -> Iterator[Any]:
        for record in run_jobs(model, jobs, **options):
            done_again.append(record["id"])
            yield record

    monkeypatch.setattr(command, "run_jobs", noted)
    done = run("in.jsonl", "-o", "out.jsonl", *options, "--resume", "--retry-errors")
    assert (done.code, done_again) == (0, ["long"])
    assert "7 of 7 prompts are in out.jsonl" in done.err
    after = read()
    assert after[:4] + after[5:] == before[:4] + before[5:]
    assert (after[4]["id"], after[4]["error"], len(after[4]["completions"])) == ("long", None, 1)


class Poisoned(GPT2):
    """A GPT-2 that fails wherever a token is near."""

    def __init__(self, healthy: GPT2, token: int, error: Exception) -> None:
        self.__dict__ = dict(healthy.__dict__)
        self.token, self.error = token, error

    def forward(self, ids: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if (ids == self.token).any():
            raise self.error
        return super().forward(ids, *arguments, **options)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("the kernel fell over"), "unexpected RuntimeError: the kernel fell over"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
    ],
)
def test_a_model_that_fails_on_one_prompt_leaves_the_others_as_they_are(
    run: Callable[..., Done], lm: LanguageModel, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines("in.jsonl", *many(12), {"id": "bad", "prompt": "ÿ"})
    options = ("--seed", "4", "--max-new-tokens", "8")
    run("in.jsonl", "-o", "good.jsonl", *options)
    healthy = lm._model.network
    assert isinstance(healthy, GPT2)
    token = lm._model.tokenizer.encode("ÿ")[-1]
    poisoned = replace(lm._model, network=Poisoned(healthy, token, error))
    monkeypatch.setattr(ModelOptions, "load_found", lambda *_, **__: poisoned)
    assert run("in.jsonl", "-o", "out.jsonl", *options).code == 3
    failed = [record["id"] for record in read() if record["error"]]
    assert "bad" in failed
    assert len(failed) < 4
    for record, good in zip(read(), read("good.jsonl"), strict=True):
        if record["error"]:
            assert record["error"]["message"] == message
        else:
            assert texts([record]) == texts([good])


def test_a_batch_that_does_not_fit_in_memory_is_halved(
    run: Callable[..., Done], lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines("in.jsonl", *many(20))
    run("in.jsonl", "-o", "good.jsonl", "--seed", "4", "--max-new-tokens", "8")
    refused = []

    def refuse(rows: int) -> None:
        if rows > 5:
            refused.append(rows)
            raise out_of_memory()

    rows = count_rows(monkeypatch, refuse)
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "4", "--max-new-tokens", "8").code == 0
    assert texts(read()) == texts(read("good.jsonl"))
    assert refused
    assert 1 < max(rows) <= 5


# Outputs that are there already, and what goes on.


def test_an_output_that_is_there_is_not_touched(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *many(3))
    Path("out.jsonl").write_text("precious\n")
    done = run("in.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "out.jsonl is there already")
    assert "--resume" in done.hint()
    assert "line 1: not a record of genlm batch" in run("in.jsonl", "-o", "out.jsonl", "--resume").error()
    # Not even by --overwrite, before there is something to put in its place.
    write_lines("bad.jsonl", {"id": 1, "prompt": "x"}, {"id": 1, "prompt": "y"})
    assert run("bad.jsonl", "-o", "out.jsonl", "--overwrite").code == 1
    assert Path("out.jsonl").read_text() == "precious\n"
    assert run("in.jsonl", "-o", "out.jsonl", "--overwrite").code == 0
    assert len(read()) == 3


def test_options_that_do_not_go_together_and_outputs_that_cannot_be(run: Callable[..., Done], tmp_path: Path) -> None:
    write_lines("in.jsonl", *many(3))
    try:
        os.symlink("in.jsonl", "link.jsonl")
    except OSError:
        # Windows lets only some users make links.
        os.link("in.jsonl", "link.jsonl")
    cases = [
        (("-o", "in.jsonl", "--overwrite"), 2, "the output in.jsonl is one of the inputs"),
        (("-o", "link.jsonl", "--overwrite"), 2, "the output link.jsonl is one of the inputs"),
        (("-o", "out.jsonl", "--resume", "--overwrite"), 2, "--resume goes on and --overwrite begins anew"),
        (("-o", "out.jsonl", "--retry-errors"), 2, "--retry-errors needs --resume"),
        (("-o", "out.txt"), 2, "out.txt: the result is .jsonl, .csv or .parquet, not .txt"),
        (("-o", "none/out.jsonl"), 1, "cannot write none/out.jsonl: No such file or directory"),
        (("-o", str(tmp_path)), 2, "the result is .jsonl"),
        (("-o", "out.jsonl", "--batch-size", "0"), 2, "--batch-size must be auto or a whole number"),
        (("-o", "out.jsonl", "-s", "greedy", "-n", "2"), 2, "greedy has one completion, not 2"),
        (("-o", "out.jsonl", "--template", "x"), 2, "the template names no column"),
    ]
    for arguments, code, message in cases:
        done = run("in.jsonl", *arguments)
        assert (done.code, message in done.error()) == (code, True), done.err
    assert not Path("out.jsonl").exists()


def test_two_runs_on_one_output_at_once_are_one_too_many(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *many(3))
    with open_journal(Path("out.jsonl")):
        done = run("in.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "out.jsonl is being written by another run")
    with open_journal(Path("out.csv.jsonl")):
        assert "is being written by another run" in run("in.jsonl", "-o", "out.csv").error()


def test_duplicate_ids_are_an_error_before_any_work(run: Callable[..., Done]) -> None:
    write_lines("a.jsonl", {"id": "x", "prompt": "fox"}, {"id": 7, "prompt": "fox"})
    write_lines("b.jsonl", {"id": "y", "prompt": "fox"}, {"id": "7", "prompt": "fox"})
    done = run("a.jsonl", "b.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "two rows have the id '7': a.jsonl, line 2 and b.jsonl, line 2")
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--seed", "8"), "seed 7, and now it is 8"),
        (("-s", "greedy"), "strategy top-p:top_p=0.9, and now it is greedy"),
        (("--top-p", "0.8"), "strategy top-p:top_p=0.9, and now it is top-p:top_p=0.8"),
        (("--max-new-tokens", "6"), "max_new_tokens 5, and now it is 6"),
        (("-n", "2"), "num_return_sequences 1, and now it is 2"),
        (("--stop", "x"), "stop none, and now it is 'x'"),
        (("--overflow", "truncate-left"), "overflow error, and now it is truncate-left"),
        (("--deterministic",), "deterministic false, and now it is true"),
        (("--dtype", "bfloat16"), "dtype float32, and now it is bfloat16"),
        (("-m", "fable"), "and now it is fable"),
    ],
)
@pytest.mark.parametrize("left", [0, 2])
def test_a_changed_setting_is_refused_with_both_values(
    run: Callable[..., Done], folder: Path, changed: tuple[str, ...], message: str, left: int
) -> None:
    write_lines("in.jsonl", *many(3))
    base = ("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "5")
    run(*base, "--seed", "7")
    write_lines("in.jsonl", *many(3 + left))
    before = Path("out.jsonl").read_bytes()
    # What comes last counts, and `run` names the model last.
    done = call("batch", *base, "--seed", "7", "-m", folder, "--device", "cpu", "--resume", *changed)
    assert done.code == 1
    assert message in done.error()
    assert Path("out.jsonl").read_bytes() == before


def test_a_model_that_was_trained_again_is_refused_under_its_old_name(tmp_path: Path) -> None:
    model = save_gpt2(tmp_path / "model")
    prompts, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    prompts.write_text("The fox\n")
    base = ("batch", prompts, "-o", output, "-m", model, "--device", "cpu", "--max-new-tokens", "3", "--seed", "7")
    call(*base)
    (before,) = read(str(output))
    save_gpt2(model, seed=1)
    message = f"made with model_fingerprint {before['model']['fingerprint']}, and now it is {fingerprint_of(model)}"
    assert message in call(*base, "--resume").error()
    assert [before] == read(str(output))
    save_gpt2(model, seed=0)
    assert call(*base, "--resume").code == 0


def test_a_row_whose_own_setting_has_changed_is_refused_too(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", {"id": 1, "prompt": "fox", "seed": 3, "strategy": "top-k"})
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    for changed, message in [
        ({"seed": 4}, "seed 3, and now it is 4 (row '1')"),
        ({"seed": None}, "seed 3, and now it is 7"),
        ({"strategy": "greedy"}, "strategy top-k:top_k=50, and now it is greedy (row '1')"),
        ({"max_new_tokens": 3}, "max_new_tokens 50, and now it is 3"),
    ]:
        write_lines("in.jsonl", {"id": 1, "prompt": "fox", "seed": 3, "strategy": "top-k"} | changed)
        assert message in run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--resume").error()
    write_lines("in.jsonl", {"id": 1, "prompt": "fox", "seed": 3, "strategy": "top-k"})
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--resume").code == 0


def test_records_of_rows_that_the_input_lacks_are_refused(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *many(3))
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    write_lines("in.jsonl", *many(2))
    done = run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--resume")
    assert done.error() == "out.jsonl holds 1 records of rows that the input does not have"


def test_without_a_seed_a_resumed_run_takes_that_of_the_records(run: Callable[..., Done]) -> None:
    rows = [{"id": "own", "prompt": "fox", "seed": 1}, *many(5)]
    write_lines("in.jsonl", *rows[:3])
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    write_lines("in.jsonl", *rows)
    assert run("in.jsonl", "-o", "out.jsonl", "--resume").code == 0
    assert [record["seed"] for record in read()] == [1] + [7] * 5
    write_lines("one.jsonl", *rows)
    run("one.jsonl", "-o", "one-out.jsonl", "--seed", "7")
    assert texts(read()) == texts(read("one-out.jsonl"))


def test_where_nothing_is_left_no_model_is_loaded(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines("in.jsonl", *many(3))
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    monkeypatch.setattr(ModelOptions, "load_found", lambda *_, **__: pytest.fail("loaded"))
    before = Path("out.jsonl").stat()
    done = run("in.jsonl", "-o", "out.jsonl", "--resume")
    assert (done.code, done.err) == (0, "3 of 3 prompts are in out.jsonl\n")
    after = Path("out.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_resume_begins_where_there_is_nothing_yet(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *many(2))
    assert run("in.jsonl", "-o", "out.jsonl", "--resume").code == 0
    assert len(read()) == 2


# Whatever ends a run, the next one goes on.


@pytest.fixture
def whole(run: Callable[..., Done]) -> Callable[..., bytes]:
    """What an uninterrupted run writes. `many` rows are in in.jsonl afterwards."""

    def make(*options: str) -> bytes:
        write_lines("in.jsonl", *many())
        run("in.jsonl", "-o", "whole.jsonl", "--seed", "7", "--max-new-tokens", "9", "--deterministic", *options)
        return Path("whole.jsonl").read_bytes()

    return make


RESUME = ("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "9", "--deterministic", "--resume")


def test_a_record_torn_at_any_byte_is_done_again(run: Callable[..., Done], whole: Callable[..., bytes]) -> None:
    expected = whole()
    *lines, last = expected.splitlines(keepends=True)
    model = json.loads(last)["model"]
    settings = Settings(DEFAULT_STRATEGY, 7, Limits(9), deterministic=True)
    with open_inputs([Path("in.jsonl")]) as files:
        for torn in range(len(last)):
            Path("out.jsonl").write_bytes(b"".join(lines) + last[:torn])
            with open_journal(Path("out.jsonl")) as journal, open_ledger() as ledger:
                batch = Batch(files, Fields(), settings, journal, ledger, Path("out.jsonl"), model=model)
                assert [job.id for job in batch.jobs()] == ["row 13"]
                assert Path("out.jsonl").read_bytes() == b"".join(lines)
    for torn in (0, 1, len(last) // 2, len(last) - 1):
        Path("out.jsonl").write_bytes(b"".join(lines) + last[:torn])
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected


def test_a_last_record_that_a_loss_of_power_spoiled_is_done_again(
    run: Callable[..., Done], whole: Callable[..., bytes]
) -> None:
    expected = whole()
    lines = expected.splitlines(keepends=True)
    for spoiled in (b"\x00" * 50 + b"\n", b'{"id": 1}\n', b"\n"):
        Path("out.jsonl").write_bytes(b"".join(lines[:-1]) + spoiled)
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected
    Path("out.jsonl").write_bytes(lines[0] + b"{}\n" + lines[2])
    assert "out.jsonl, line 2: not a record" in run(*RESUME).error()


def test_any_part_of_the_records_in_any_order_is_a_beginning(
    run: Callable[..., Done],
    whole: Callable[..., bytes],
    lm: LanguageModel,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = replace(lm._model, fingerprint=fingerprint_of(folder))
    monkeypatch.setattr(ModelOptions, "load_found", lambda *_, **__: loaded)
    expected = whole()
    lines = expected.splitlines(keepends=True)
    for seed in range(10):
        dice = random.Random(seed)
        Path("out.jsonl").write_bytes(b"".join(dice.sample(lines, dice.randrange(len(lines) + 1))))
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected


def test_a_full_disk_is_one_clear_line_and_the_next_run_goes_on(
    run: Callable[..., Done],
    whole: Callable[..., bytes],
    lm: LanguageModel,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = replace(lm._model, fingerprint=fingerprint_of(folder))
    monkeypatch.setattr(ModelOptions, "load_found", lambda *_, **__: loaded)
    expected = whole()
    write = os.write
    for room in (0, 1, 700, len(expected) // 2, len(expected) - 1):
        left = room

        def little(descriptor: int, data: bytes) -> int:
            nonlocal left
            if data and not left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(descriptor, data[:left])
            left -= written
            return written

        Path("out.jsonl").unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", little)
            done = run(*RESUME)
        assert (done.code, done.error()) == (1, "cannot write out.jsonl: No space left on device")
        assert "--resume" in done.hint()
        assert not Path("out.jsonl").exists() or Path("out.jsonl").read_bytes().endswith(b"\n")
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected


def interrupted_after(
    records: int, times: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGINT
) -> None:
    """Let Ctrl-C be pressed so often, or another signal come, when so many records are there."""

    def pressing(model: Model, jobs: Iterator[Job], **options: Any) -> Iterator[Any]:
        for place, record in enumerate(run_jobs(model, jobs, **options), 1):
            if place == records:
                for _ in range(times):
                    signal.raise_signal(number)
            yield record

    monkeypatch.setattr(command, "run_jobs", pressing)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_or_sigterm_finishes_what_is_under_way(
    run: Callable[..., Done],
    whole: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    expected = whole()
    with monkeypatch.context() as patch:
        interrupted_after(2, 1, patch, number)
        done = run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "9", "--batch-size", "4")
    assert done.code == code
    assert "finishing the running work; press Ctrl-C again to stop immediately" in done.err
    assert "of 14 prompts are in out.jsonl" in done.err
    assert "--resume goes on" in done.err
    # The two, those under way, and any that ended with their first token before the signal was noticed.
    assert 3 <= len(read()) < 14
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "9", "--resume").code == 0
    assert texts(read()) == [[json.loads(line)["completions"][0]["text"]] for line in expected.splitlines()]


def test_a_second_ctrl_c_leaves_at_once(
    run: Callable[..., Done], whole: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole()
    with monkeypatch.context() as patch:
        interrupted_after(2, 2, patch)
        done = run(*RESUME)
    assert done.code == 130
    assert len(read()) == 1
    assert run(*RESUME).code == 0
    assert Path("out.jsonl").read_bytes() == expected


def test_what_takes_too_long_to_finish_is_left(
    run: Callable[..., Done], whole: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole()
    monkeypatch.setattr("genlm.cli.batch.MOST_FINISHING_S", -1.0)
    interrupted_after(2, 1, monkeypatch)
    assert run(*RESUME).code == 130
    assert len(read()) == 2


# What is seen meanwhile.


def test_lines_tell_how_far_it_is_where_no_terminal_is(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genlm.views.batch.LINE_EVERY_S", 0.0)
    write_lines("in.jsonl", *many(4))
    lines = run("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "3").err.splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("3 of 4 prompts  ")
    assert "tokens/s" in lines[2]
    assert lines[4].startswith("4 of 4 prompts are in out.jsonl  ")


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 3.0, 4.0), ("", "", "", "", "", "47 s left", "53 s left")),
        ((10.0, 20.0, 30.0, 40.0, 50.0), ("", "", "", "", "15 min 50 s left")),
    ],
)
def test_the_time_left_is_told_once_it_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, times: tuple[float, ...], told: tuple[str, ...]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(views.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(views, "LINE_EVERY_S", 0.0)
    record: Any = {"completions": [], "error": None}
    with views.BatchProgress(BatchCounts(100, 0, 0)) as progress:
        for clock.now in times:
            progress.show(record)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("tokens/s")[2].strip() for line in lines] == list(told)


def test_quiet_is_quiet(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *many(2), "nope")
    done = run("in.jsonl", "-o", "out.jsonl", "-q")
    assert (done.code, done.out, done.err) == (3, "", "")


def test_a_bar_tells_it_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from genlm.records.batch import BatchCounts
    from genlm.views.batch import BatchProgress

    screen = FakeTerminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    record: Any = {"completions": [{"token_ids": [1, 2, 3]}], "error": None}
    failed: Any = {"completions": [], "error": {"message": "bad \x1b[31m", "file": "in.jsonl", "row": 1, "line": 4}}
    with BatchProgress(BatchCounts(20, 5, 0)) as progress:
        progress.show(record)
        progress.show(failed)
    shown = screen.getvalue()
    assert "7/20" in shown
    assert "tokens/s" in shown
    assert "in.jsonl, line 4: bad ␛[31m" in shown
    assert progress.tokens == 3


def test_numbers_are_read_as_people_do() -> None:
    from genlm.views.batch import _duration

    seconds = [0.24, 9.9, 59.4, 61, 3599, 3661, 200_000]
    assert [_duration(each) for each in seconds] == [
        "0.2 s",
        "9.9 s",
        "59 s",
        "1 min 01 s",
        "59 min 59 s",
        "1 h 01 min",
        "55 h 33 min",
    ]


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv"])
def test_no_prompts_make_an_output_without_records(run: Callable[..., Done], name: str) -> None:
    Path(name).write_text("")
    assert run(name, "-o", "out.jsonl").code == 0
    assert Path("out.jsonl").read_bytes() == b""


@pytest.mark.parametrize("contents", ["precious", "precious\nand more", '{"name": "precious"}'])
def test_resume_leaves_a_file_alone_that_is_no_output_of_a_batch(run: Callable[..., Done], contents: str) -> None:
    write_lines("in.jsonl", *many(3))
    Path("out.jsonl").write_text(contents)
    assert run("in.jsonl", "-o", "out.jsonl", "--resume").error() == "out.jsonl, line 1: not a record of genlm batch"
    assert Path("out.jsonl").read_text() == contents


@pytest.mark.parametrize("torn", [b'{"i', b'{"id": "row 0", "pro', b"\0" * 40])
def test_a_first_record_that_was_torn_is_done_again(
    run: Callable[..., Done], whole: Callable[..., bytes], torn: bytes
) -> None:
    expected = whole()
    Path("out.jsonl").write_bytes(torn)
    assert run(*RESUME).code == 0
    assert Path("out.jsonl").read_bytes() == expected


def test_a_template_may_name_the_id_and_a_prompt_may_be_its_own_id(run: Callable[..., Done]) -> None:
    Path("in.csv").write_text("id,prompt\nfox,Once\n")
    assert run("in.csv", "-o", "out.jsonl", "--template", "{id}: {prompt}").code == 0
    assert [(record["id"], record["prompt"]) for record in read()] == [("fox", "fox: Once")]
    assert run("in.csv", "-o", "two.jsonl", "--id-field", "prompt").code == 0
    assert [(record["id"], record["prompt"]) for record in read("two.jsonl")] == [("Once", "Once")]


@pytest.mark.parametrize(
    ("name", "option", "hint"),
    [
        ("in.csv", ("--id-field", "key"), "it has id, prompt; --id-field names another"),
        ("in.txt", ("--template", "{key}"), "it has prompt; --prompt-field names another"),
        ("in.txt", ("--prompt-field", "key"), "it has prompt; --prompt-field names another"),
    ],
)
def test_a_column_that_is_asked_for_and_not_there_is_an_error_before_any_work(
    run: Callable[..., Done], name: str, option: tuple[str, str], hint: str
) -> None:
    Path(name).write_text("id,prompt\nfox,Once\n")
    done = run(name, "-o", "out.jsonl", *option)
    assert (done.error(), done.hint()) == (f"{name} has no column 'key'", hint)


def test_an_empty_separator_is_refused(run: Callable[..., Done]) -> None:
    Path("in.txt").write_text("fox\n")
    done = run("in.txt", "-o", "out.jsonl", "--separator", "")
    assert (done.code, done.error()) == (2, "the separator must not be empty")


def test_the_time_of_loading_is_no_part_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 102.0])
    monkeypatch.setattr(views.time, "monotonic", lambda: next(clock))
    with views.BatchProgress(BatchCounts(2, 0, 0)) as progress:
        assert progress.seconds == 2.0
