"""Parts and their records: torn ones, those of lost workers, and all of them merged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from support.batch import read_table
from support.cluster import folder_of, make_all, make_plan, run_locally, write_manifest
from support.driving import call

from genlm.tasks.batch.run import Plan
from genlm.tasks.cluster.parts import UnfinishedPart, merge_parts, part_name, read_records


def test_a_part_torn_at_any_byte_keeps_its_complete_records(plan: Plan) -> None:
    first = next(part for part in make_all(plan) if part.data)
    assert first.data is not None
    path, last = Path(plan.output, first.part), first.data.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last, len(first.data)):
        path.write_bytes(first.data[:end])
        records, is_part, damaged = read_records(folder_of(plan), first.part)
        # Only the line break is missing from the last record in the end.
        complete = 4 if end == len(first.data) - 1 else 3
        assert [record.id for record in records] == ["r0", "r1", "r2", "r3"][:complete]
        assert is_part == (end == last)
        assert not damaged


def test_a_record_is_kept_soon_even_if_no_other_comes() -> None:
    kept = threading.Event()
    folder: Any = SimpleNamespace(write=lambda name, data: kept.set())
    with mock.patch("genlm.tasks.cluster.parts.KEEP_EVERY_S", 0.01):
        UnfinishedPart(folder, "part").add("a record")
        assert kept.wait(60.0)


def test_nothing_is_kept_of_a_part_that_is_complete() -> None:
    folder: Any = SimpleNamespace(write=mock.Mock())
    unfinished = UnfinishedPart(folder, "part")
    unfinished.add("a record")
    unfinished.forget()
    unfinished.keep()
    assert not folder.write.called


class TestMerge:
    @pytest.mark.parametrize("name", ["all.jsonl", "all.csv", "all.parquet"])
    def test_the_file_is_that_of_one_machine(self, plan: Plan, tmp_path: Path, name: str) -> None:
        make_all(plan)
        write_manifest(plan)
        merge_parts(plan.output, tmp_path / name)
        expected = run_locally(plan, tmp_path)
        if name.endswith("jsonl"):
            assert (tmp_path / name).read_bytes() == expected
        else:
            assert (tmp_path / name).stat().st_size > 0

    def test_csv_safe_quotes_formulas(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "in.jsonl").write_text('{"prompt": "=1+1"}\n')
        plan = make_plan(tiny, [tmp_path / "in.jsonl"], tmp_path / "parts")
        make_all(plan)
        write_manifest(plan)
        assert call("merge", plan.output, "-o", tmp_path / "all.csv", "--csv-safe").code == 0
        assert [row["prompt"] for row in read_table(str(tmp_path / "all.csv"))] == ["'=1+1"]

    def test_the_command_says_how_many_records_there_are(self, plan: Plan, tmp_path: Path) -> None:
        make_all(plan)
        write_manifest(plan)
        done = call("merge", plan.output, "-o", tmp_path / "all.jsonl")
        assert (done.code, done.out) == (0, "")
        assert done.err == f"10 records are in {tmp_path / 'all.jsonl'}, 1 of them with an error\n"

    @pytest.mark.parametrize("damage", ["missing", "torn", "short"])
    def test_an_incomplete_part_is_an_error(self, plan: Plan, tmp_path: Path, damage: str) -> None:
        make_all(plan)
        write_manifest(plan)
        part = tmp_path / "parts" / part_name(0, 1)
        damages: dict[str, Callable[[], object]] = {
            "missing": part.unlink,
            "torn": lambda: part.write_bytes(part.read_bytes()[:-1]),
            "short": lambda: part.write_bytes(part.read_bytes().split(b"\n", 1)[1]),
        }
        damages[damage]()
        done = call("merge", plan.output, "-o", tmp_path / "all.jsonl")
        assert done.code == 1
        assert "is not finished: part-00000-0000001.jsonl has" in done.error()
        assert "--resume" in done.hint()
        assert not (tmp_path / "all.jsonl").exists()

    @pytest.mark.parametrize("name", ["all.jsonl", "all.csv"])
    def test_a_damaged_record_is_an_error(self, plan: Plan, tmp_path: Path, name: str) -> None:
        make_all(plan)
        write_manifest(plan)
        part = tmp_path / "parts" / part_name(0, 1)
        lines = part.read_bytes().splitlines(keepends=True)
        part.write_bytes(lines[0] + lines[1].replace(b"seed", b"need") + b"".join(lines[2:]))
        done = call("merge", plan.output, "-o", tmp_path / name)
        assert (done.code, done.error()) == (1, f"{part}, line 2: a damaged record")
        assert "--resume" in done.hint()
        assert not (tmp_path / name).exists()

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        assert "holds no parts" in call("merge", tmp_path, "-o", tmp_path / "all.jsonl").error()

    def test_an_output_of_no_known_format_is_refused(self, tmp_path: Path) -> None:
        done = call("merge", tmp_path, "-o", tmp_path / "all.txt")
        assert (done.code, "the result is .jsonl, .csv or .parquet" in done.error()) == (2, True)

    def test_an_existing_file_is_replaced_only_with_overwrite(self, plan: Plan, tmp_path: Path) -> None:
        make_all(plan)
        write_manifest(plan)
        output = tmp_path / "all.jsonl"
        output.write_text("mine")
        assert "already exists" in call("merge", plan.output, "-o", output).error()
        assert output.read_text() == "mine"
        assert call("merge", plan.output, "-o", output, "--overwrite").code == 0
        assert output.read_text() != "mine"
