"""An output that exists: when it is continued, when it is replaced, and when it is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.batch import fingerprint_of, read_records, rows, texts, write_lines
from support.driving import Done, call
from support.gpt2 import save_gpt2

from genlm.formats.journal import open_journal
from genlm.tasks.batch.run import ModelChoice


def test_an_existing_output_is_not_touched(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *rows(3))
    Path("out.jsonl").write_text("precious\n")
    done = run("in.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "out.jsonl already exists")
    assert "--resume" in done.hint()
    assert "line 1: not a record of genlm batch" in run("in.jsonl", "-o", "out.jsonl", "--resume").error()
    # Even --overwrite keeps it until there is something to replace it.
    write_lines("bad.jsonl", {"id": 1, "prompt": "x"}, {"id": 1, "prompt": "y"})
    assert run("bad.jsonl", "-o", "out.jsonl", "--overwrite").code == 1
    assert Path("out.jsonl").read_text() == "precious\n"
    assert run("in.jsonl", "-o", "out.jsonl", "--overwrite").code == 0
    assert len(read_records()) == 3


@pytest.mark.parametrize(
    "contents",
    ["precious", "precious\nand more", '{"name": "precious"}', '{"checksum": "01234567"}\n', '{"id": 1}\n'],
    ids=["text", "lines", "object", "a checksum", "an id"],
)
def test_resume_does_not_touch_a_file_that_is_not_a_batch(run: Callable[..., Done], contents: str) -> None:
    write_lines("in.jsonl", *rows(3))
    Path("out.jsonl").write_text(contents)
    assert run("in.jsonl", "-o", "out.jsonl", "--resume").error() == "out.jsonl, line 1: not a record of genlm batch"
    assert Path("out.jsonl").read_text() == contents


def test_options_that_cannot_be_combined_and_outputs_that_cannot_be_written(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    write_lines("in.jsonl", *rows(3))
    try:
        os.symlink("in.jsonl", "link.jsonl")
    except OSError:
        # Windows lets only some users make symbolic links.
        os.link("in.jsonl", "link.jsonl")
    cases = [
        (("-o", "in.jsonl", "--overwrite"), 2, "the output in.jsonl is one of the inputs"),
        (("-o", "link.jsonl", "--overwrite"), 2, "the output link.jsonl is one of the inputs"),
        (("-o", "out.jsonl", "--resume", "--overwrite"), 2, "--resume and --overwrite cannot be combined"),
        (("-o", "out.jsonl", "--retry-errors"), 2, "--retry-errors needs --resume"),
        (("-o", "out.jsonl", "--redo-changed"), 2, "--redo-changed needs --resume"),
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


def test_a_second_run_on_the_same_output_is_refused(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *rows(3))
    with open_journal(Path("out.jsonl")):
        done = run("in.jsonl", "-o", "out.jsonl")
    assert (done.code, done.error()) == (1, "out.jsonl is being written by another run")
    with open_journal(Path("out.csv.jsonl")):
        assert "is being written by another run" in run("in.jsonl", "-o", "out.csv").error()


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
    write_lines("in.jsonl", *rows(3))
    base = ("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "5")
    run(*base, "--seed", "7")
    write_lines("in.jsonl", *rows(3 + left))
    before = Path("out.jsonl").read_bytes()
    # The last of two options counts, and `run` names the model last.
    done = call("batch", *base, "--seed", "7", "-m", folder, "--device", "cpu", "--resume", *changed)
    assert done.code == 1
    assert message in done.error()
    assert Path("out.jsonl").read_bytes() == before


def test_a_retrained_model_is_refused_under_its_old_name(tmp_path: Path) -> None:
    model = save_gpt2(tmp_path / "model")
    prompts, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    prompts.write_text("The fox\n")
    base = ("batch", prompts, "-o", output, "-m", model, "--device", "cpu", "--max-new-tokens", "3", "--seed", "7")
    call(*base)
    (before,) = read_records(output)
    save_gpt2(model, seed=1)
    message = f"made with model_fingerprint {before['model']['fingerprint']}, and now it is {fingerprint_of(model)}"
    assert message in call(*base, "--resume").error()
    assert [before] == read_records(output)
    save_gpt2(model, seed=0)
    assert call(*base, "--resume").code == 0


def test_a_changed_override_of_a_row_is_refused_too(run: Callable[..., Done]) -> None:
    row = {"id": 1, "prompt": "fox", "seed": 3, "strategy": "top-k"}
    write_lines("in.jsonl", row)
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    for changed, message in [
        ({"seed": 4}, "seed 3, and now it is 4 (row '1')"),
        ({"seed": None}, "seed 3, and now it is 7"),
        ({"strategy": "greedy"}, "strategy top-k:top_k=50, and now it is greedy (row '1')"),
        ({"max_new_tokens": 3}, "max_new_tokens 50, and now it is 3"),
    ]:
        write_lines("in.jsonl", row | changed)
        assert message in run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--resume").error()
    write_lines("in.jsonl", row)
    assert run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--resume").code == 0


@pytest.mark.parametrize("output", ["out.jsonl", "out.csv"])
def test_a_changed_prompt_is_refused_without_redo_changed(run: Callable[..., Done], output: str) -> None:
    options = ("in.jsonl", "-o", output, "--max-new-tokens", "5", "--deterministic", "--seed", "7")
    before = [*rows(12), {"id": "bad", "prompt": None}]
    after = [row | {"prompt": f"A {row['prompt']}"} if row["id"] in ("row 1", "row 3") else row for row in before]
    after[-1] = {"id": "bad", "prompt": "fox"}
    write_lines("in.jsonl", *before)
    assert run(*options).code == 3
    contents = Path(output).read_bytes()
    write_lines("in.jsonl", *after)
    done = run(*options, "--resume")
    message = f"3 rows have other prompts than their records in {output}: 'row 1', 'row 3', 'bad'"
    assert (done.code, done.error()) == (1, message)
    assert done.hint() == "continue with the same prompts; --redo-changed runs these rows again"
    assert Path(output).read_bytes() == contents
    # The row with an error runs again anyway.
    assert run(*options, "--resume", "--retry-errors").error().startswith("2 rows have other prompts")
    assert run(*options, "--resume", "--redo-changed").code == 0
    redone = Path(output).read_bytes()
    assert run(*options, "--overwrite").code == 0
    assert Path(output).read_bytes() == redone


def test_only_rows_with_a_changed_prompt_run_again(run: Callable[..., Done]) -> None:
    options = ("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "5", "--seed", "7")
    write_lines("in.jsonl", *rows(30))
    run(*options)
    before = read_records()
    write_lines("in.jsonl", *rows(29), {"id": "row 29", "prompt": "new"})
    assert run(*options, "--resume").error() == "1 row has another prompt than its record in out.jsonl: 'row 29'"
    done = run(*options, "--resume", "--redo-changed")
    assert "30 of 30 prompts are in out.jsonl  5 tokens" in done.err
    after = read_records()
    assert (after[:29], after[29]["prompt"]) == (before[:29], "new")
    write_lines("in.jsonl", *(row | {"prompt": "other"} for row in rows(30)))
    assert run(*options, "--resume").error().endswith("'row 8', 'row 9' and 20 more")


def test_a_template_that_changes_the_prompts_is_noticed(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *rows(2))
    options = ("in.jsonl", "-o", "out.jsonl", "--max-new-tokens", "2", "--seed", "7")
    run(*options)
    assert "2 rows have other prompts" in run(*options, "--resume", "--template", "A {prompt}").error()


def test_records_of_rows_that_the_input_lacks_are_refused(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *rows(3))
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    write_lines("in.jsonl", *rows(2))
    done = run("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--resume")
    assert done.error() == "out.jsonl holds 1 records of rows that the input does not have"


def test_without_a_seed_a_resumed_run_takes_the_seed_of_the_records(run: Callable[..., Done]) -> None:
    all_rows = [{"id": "own", "prompt": "fox", "seed": 1}, *rows(5)]
    write_lines("in.jsonl", *all_rows[:3])
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    write_lines("in.jsonl", *all_rows)
    assert run("in.jsonl", "-o", "out.jsonl", "--resume").code == 0
    assert [record["seed"] for record in read_records()] == [1] + [7] * 5
    write_lines("one.jsonl", *all_rows)
    run("one.jsonl", "-o", "one-out.jsonl", "--seed", "7")
    assert texts(read_records()) == texts(read_records("one-out.jsonl"))


def test_if_nothing_is_left_the_model_is_not_loaded(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines("in.jsonl", *rows(3))
    run("in.jsonl", "-o", "out.jsonl", "--seed", "7")
    monkeypatch.setattr(ModelChoice, "load", lambda _: pytest.fail("loaded"))
    before = Path("out.jsonl").stat()
    done = run("in.jsonl", "-o", "out.jsonl", "--resume")
    assert (done.code, done.err) == (0, "3 of 3 prompts are in out.jsonl\n")
    after = Path("out.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_resume_works_without_an_output(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", *rows(2))
    assert run("in.jsonl", "-o", "out.jsonl", "--resume").code == 0
    assert len(read_records()) == 2
