"""The records of `genlm batch`: one for every row, whatever else is in the batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.batch import WORDS, fingerprint_of, read_records, rows, texts, write_lines
from support.driving import Done

from genlm.api import LanguageModel
from genlm.decoding.kinds import KINDS
from genlm.records.batch import BatchRecord
from genlm.records.made_by import Versions


def test_a_record_has_the_completions_of_generate(run: Callable[..., Done], lm: LanguageModel, folder: Path) -> None:
    write_lines("in.jsonl", *rows())
    done = run("in.jsonl", "-o", "out.jsonl", "--seed", "5", "--max-new-tokens", "20", "-n", "2", "--stop", "e")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("14 of 14 prompts are in out.jsonl")
    for row, record in zip(rows(), read_records(), strict=True):
        alone = lm.generate(row["prompt"], seed=5, max_new_tokens=20, num_return_sequences=2, stop="e")
        assert [each.pop("logprob") for each in record["completions"]] == pytest.approx(
            [each.logprob for each in alone.completions], abs=1e-3
        )
        expected = {
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
                "name": str(folder),
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
            "made_by": vars(Versions.installed()),
            "columns": {},
            "error": None,
        }
        assert re.fullmatch("[0-9a-f]{8}", record.pop("checksum"))
        assert record == expected
        assert list(record) == list(expected)


def test_a_flip_of_any_bit_of_a_record_is_noticed(lm: LanguageModel) -> None:
    (record,) = lm.batch([{"prompt": "fox", "note": "naïve"}], seed=1, max_new_tokens=3)
    line = record.to_line().encode()
    assert BatchRecord.from_line(line) == BatchRecord.from_line(line + b"\n") == record
    for bit in range(8 * len(line)):
        damaged = bytearray(line)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="the checksum is wrong or missing"):
            BatchRecord.from_line(bytes(damaged))


def test_a_row_may_have_its_own_strategy_seed_and_length(run: Callable[..., Done], lm: LanguageModel) -> None:
    overrides = [
        {"prompt": prompt, "strategy": kind, "seed": number, "max_new_tokens": 3 + number, "tag": [number]}
        for number, (kind, prompt) in enumerate((kind, prompt) for kind in KINDS for prompt in WORDS[:3])
    ]
    write_lines("in.jsonl", *overrides, {"prompt": "fox", "strategy": None, "seed": None})
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "99").code == 0
    *records, last = read_records()
    for number, (row, record) in enumerate(zip(overrides, records, strict=True), 1):
        alone = lm.generate(
            str(row["prompt"]), strategy=str(row["strategy"]), seed=int(str(row["seed"])), max_new_tokens=2 + number
        )
        assert texts([record]) == [[alone.completions[0].text]]
        assert (record["id"], record["columns"]) == (f"in.jsonl:{number}", {"tag": [number - 1]})
        assert (record["strategy"], record["seed"]) == (alone.strategy.spec, row["seed"])
        assert record["max_new_tokens"] == row["max_new_tokens"]
    assert (last["strategy"], last["seed"], last["max_new_tokens"]) == ("top-p:top_p=0.9", 99, 50)


@pytest.mark.parametrize("size", ["1", "3", "auto"])
def test_the_batch_size_changes_no_byte_of_a_deterministic_run(run: Callable[..., Done], size: str) -> None:
    write_lines("in.jsonl", *rows())
    options = ("--seed", "1", "--max-new-tokens", "15", "--deterministic")
    run("in.jsonl", "-o", "one.jsonl", *options)
    assert run("in.jsonl", "-o", "out.jsonl", *options, "--batch-size", size).code == 0
    assert Path("out.jsonl").read_bytes() == Path("one.jsonl").read_bytes()


def test_equal_prompts_each_get_a_record(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *({"prompt": "fox"} for _ in range(5)))
    assert run("in.jsonl", "-o", "out.jsonl").code == 0
    assert len(read_records()) == 5
    assert len(set(map(str, texts(read_records())))) == 1


def test_records_are_in_the_order_of_the_input_or_as_they_finish(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *({"id": n, "prompt": "fox" * (1 + n), "max_new_tokens": 20 - n} for n in range(10)))
    run("in.jsonl", "-o", "out.jsonl", "--seed", "1", "--batch-size", "4")
    assert [record["id"] for record in read_records()] == list(range(10))
    run("in.jsonl", "-o", "un.jsonl", "--seed", "1", "--batch-size", "4", "--unordered")
    unordered = read_records("un.jsonl")
    ids = [record["id"] for record in unordered]
    assert ids != sorted(ids) == list(range(10))
    assert sorted(unordered, key=lambda each: each["id"]) == read_records()


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv"])
def test_an_empty_input_gives_an_empty_output(run: Callable[..., Done], name: str) -> None:
    Path(name).write_text("")
    assert run(name, "-o", "out.jsonl").code == 0
    assert Path("out.jsonl").read_bytes() == b""
