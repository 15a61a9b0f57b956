"""Whatever ends a run, the next one continues, and the result is that of an uninterrupted run."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.batch import read_records, texts, write_lines
from support.driving import Done

from genlm.formats.journal import open_journal
from genlm.formats.rows import open_inputs
from genlm.model.fingerprint import fingerprinted
from genlm.model.load import Model
from genlm.model.source import find_model
from genlm.records.made_by import Versions
from genlm.tasks.batch.jobs import BatchSettings, Columns, Job, run_jobs
from genlm.tasks.batch.ledger import open_ledger
from genlm.tasks.batch.run import BatchRun, ModelChoice, Plan
from genlm.tasks.generate import DEFAULT_STRATEGY, Limits

RESUME = ("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "9", "--deterministic", "--resume")


@pytest.fixture
def loaded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one loaded model for all runs."""
    monkeypatch.setattr(ModelChoice, "load", lambda _: model)


def test_a_record_torn_at_any_byte_is_made_again(
    run: Callable[..., Done], whole: Callable[..., bytes], folder: Path
) -> None:
    expected = whole()
    *lines, last = expected.splitlines(keepends=True)
    settings = BatchSettings(DEFAULT_STRATEGY, 7, Limits(9), deterministic=True)
    choice = ModelChoice(fingerprinted(find_model(str(folder))))
    with open_inputs([Path("in.jsonl")]) as files:
        plan = Plan(tuple(files), Columns(), settings, choice, "out.jsonl", resume=True)
        for torn in range(len(last)):
            Path("out.jsonl").write_bytes(b"".join(lines) + last[:torn])
            with open_journal(Path("out.jsonl")) as journal, open_ledger() as ledger:
                assert [job.id for job in BatchRun(plan, journal, ledger).jobs()] == ["row 13"]
                assert Path("out.jsonl").read_bytes() == b"".join(lines)
    for torn in (0, 1, len(last) // 2, len(last) - 1):
        Path("out.jsonl").write_bytes(b"".join(lines) + last[:torn])
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected


@pytest.mark.parametrize("torn", [b'{"i', b'{"id": "row 0", "pro', b"\0" * 40])
def test_a_torn_first_record_is_made_again(run: Callable[..., Done], whole: Callable[..., bytes], torn: bytes) -> None:
    expected = whole()
    Path("out.jsonl").write_bytes(torn)
    assert run(*RESUME).code == 0
    assert Path("out.jsonl").read_bytes() == expected


def test_a_last_record_damaged_by_a_power_failure_is_made_again(
    run: Callable[..., Done], whole: Callable[..., bytes]
) -> None:
    expected = whole()
    lines = expected.splitlines(keepends=True)
    for damaged in (b"\x00" * 50 + b"\n", b'{"id": 1}\n', b"\n"):
        Path("out.jsonl").write_bytes(b"".join(lines[:-1]) + damaged)
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected
    Path("out.jsonl").write_bytes(lines[0] + b"{}\n" + lines[2])
    done = run(*RESUME)
    assert (done.code, Path("out.jsonl").read_bytes() == expected) == (0, True)
    assert "out.jsonl, line 2: ignored a damaged record; its row runs again\n" in done.err


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_record_with_a_flipped_bit_is_named_and_made_again(
    run: Callable[..., Done], whole: Callable[..., bytes], output: str
) -> None:
    expected = whole()
    arguments = [output if each == "out.jsonl" else each for each in RESUME]
    journal = output if output == "out.jsonl" else f"{output}.jsonl"
    assert run(*arguments).code == 0
    table = Path(output).read_bytes()
    dice = random.Random(5)
    for _ in range(12):
        damaged = bytearray(expected)
        # The last line break is not part of a record: without it the last line is one that was not written fully.
        bit = dice.randrange(8 * (len(damaged) - 1))
        damaged[bit // 8] ^= 1 << bit % 8
        Path(journal).write_bytes(damaged)
        done = run(*arguments)
        line = 1 + expected.count(b"\n", 0, bit // 8)
        assert f"{journal}, line {line}: ignored a damaged record; its row runs again\n" in done.err
        assert (done.code, Path(output).read_bytes() == table) == (0, True)
        assert Path(journal).read_bytes() == expected


@pytest.mark.usefixtures("loaded")
def test_a_flip_of_any_bit_of_the_only_record_is_noticed(run: Callable[..., Done]) -> None:
    write_lines("in.jsonl", {"prompt": "fox"})
    assert run(*RESUME).code == 0
    expected = Path("out.jsonl").read_bytes()
    for bit in range(0, 8 * (len(expected) - 1), 97):
        damaged = bytearray(expected)
        damaged[bit // 8] ^= 1 << bit % 8
        Path("out.jsonl").write_bytes(damaged)
        done = run(*RESUME)
        assert "out.jsonl, line 1: ignored a damaged record" in done.err
        assert Path("out.jsonl").read_bytes() == expected


@pytest.mark.usefixtures("loaded")
def test_many_damaged_records_do_not_fill_the_screen(run: Callable[..., Done], whole: Callable[..., bytes]) -> None:
    expected = whole()
    first, *others = expected.splitlines(keepends=True)
    Path("out.jsonl").write_bytes(first + b"".join(line.replace(b"row", b"now") for line in others))
    done = run(*RESUME)
    assert done.err.count("ignored a damaged record;") == 10
    assert "out.jsonl: ignored 3 more damaged records\n" in done.err
    assert Path("out.jsonl").read_bytes() == expected


@pytest.mark.usefixtures("loaded")
def test_a_run_under_other_versions_continues_with_a_notice(
    run: Callable[..., Done], whole: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole()
    assert "made by" not in run(*RESUME).err
    lines = expected.splitlines(keepends=True)
    Path("out.jsonl").write_bytes(b"".join(lines[:5]))
    now = Versions.installed()
    later = replace(now, torch="99.1")
    monkeypatch.setattr(Versions, "installed", lambda: later)
    done = run(*RESUME)
    assert (done.code, f"out.jsonl has records made by {now}; this is {later}\n" in done.err) == (0, True)
    made_by = [record["made_by"]["torch"] for record in read_records()]
    assert made_by == [now.torch] * 5 + ["99.1"] * 9


@pytest.mark.usefixtures("loaded")
def test_any_records_in_any_order_can_be_continued(run: Callable[..., Done], whole: Callable[..., bytes]) -> None:
    expected = whole()
    lines = expected.splitlines(keepends=True)
    for seed in range(10):
        dice = random.Random(seed)
        Path("out.jsonl").write_bytes(b"".join(dice.sample(lines, dice.randrange(len(lines) + 1))))
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected


@pytest.mark.usefixtures("loaded")
def test_after_a_full_disk_the_next_run_continues(
    run: Callable[..., Done], whole: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole()
    write = os.write
    for room in (0, 1, 700, len(expected) // 2, len(expected) - 1):
        left = room

        def write_what_fits(descriptor: int, data: bytes) -> int:
            nonlocal left
            if data and not left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(descriptor, data[:left])
            left -= written
            return written

        Path("out.jsonl").unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write_what_fits)
            done = run(*RESUME)
        assert (done.code, done.error()) == (1, "cannot write out.jsonl: No space left on device")
        assert "--resume" in done.hint()
        assert not Path("out.jsonl").exists() or Path("out.jsonl").read_bytes().endswith(b"\n")
        assert run(*RESUME).code == 0
        assert Path("out.jsonl").read_bytes() == expected


def interrupt_after(
    records: int, times: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGINT
) -> None:
    """Send a signal `times` times as soon as `records` records are made."""

    def interrupted(model: Model, jobs: Iterator[Job], **options: Any) -> Iterator[Any]:
        for count, record in enumerate(run_jobs(model, jobs, **options), 1):
            if count == records:
                for _ in range(times):
                    signal.raise_signal(number)
            yield record

    monkeypatch.setattr("genlm.cli.batch.run_jobs", interrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_let_running_prompts_finish(
    run: Callable[..., Done],
    whole: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    # Every text has all nine tokens, so no prompt starts and ends before the signal is noticed.
    long = ("-s", "top-p:top_p=0.9,min_new_tokens=9")
    settings = ("in.jsonl", "-o", "out.jsonl", "--seed", "7", "--max-new-tokens", "9", *long)
    expected = whole(*long)
    with monkeypatch.context() as patch:
        interrupt_after(2, 1, patch, number)
        done = run(*settings, "--batch-size", "4")
    assert done.code == code
    assert "finishing the running work; press Ctrl-C again to stop immediately" in done.err
    assert "of 14 prompts are in out.jsonl" in done.err
    assert "--resume continues" in done.err
    # The two, and the at most four that were running.
    assert 3 <= len(read_records()) <= 6
    assert run(*settings, "--resume").code == 0
    assert texts(read_records()) == [[json.loads(line)["completions"][0]["text"]] for line in expected.splitlines()]


def test_a_second_ctrl_c_ends_at_once(
    run: Callable[..., Done], whole: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole()
    with monkeypatch.context() as patch:
        interrupt_after(2, 2, patch)
        done = run(*RESUME)
    assert done.code == 130
    assert len(read_records()) == 1
    assert run(*RESUME).code == 0
    assert Path("out.jsonl").read_bytes() == expected


def test_prompts_that_take_too_long_to_finish_are_abandoned(
    run: Callable[..., Done], whole: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole()
    monkeypatch.setattr("genlm.cli.batch.FINISH_WITHIN_S", -1.0)
    interrupt_after(2, 1, monkeypatch)
    assert run(*RESUME).code == 130
    assert len(read_records()) == 2
