"""What a cluster does, without a cluster: plans, parts and their torn ends, a worker, the merge, wrong usage."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from support.driving import FakeTerminal, call, wait_until
from support.gpt2 import edit_json
from support.networks import count_rows

from genlm.decoding.strategy import Strategy
from genlm.errors import (
    ClusterError,
    GenlmError,
    HubUnreachable,
    InputError,
    ModelError,
    OutputError,
    SpecError,
    UsageError,
)
from genlm.formats.folder import open_folder
from genlm.formats.remote import RemoteFile, read_place
from genlm.formats.rows import open_inputs
from genlm.model.source import find_model
from genlm.records.batch import BatchModel, BatchRecord
from genlm.records.cluster import ClusterState
from genlm.records.serialize import as_line
from genlm.tasks.batch.jobs import Fields, Settings
from genlm.tasks.cluster.manifest import Manifest, made_with, read_manifest
from genlm.tasks.cluster.merge import merge_parts
from genlm.tasks.cluster.parts import Unfinished, read_records
from genlm.tasks.cluster.plan import ModelChoice, Plan, Resources, make_plan, part_name, parts_at_once, rows_per_part
from genlm.tasks.cluster.prepare import check_output
from genlm.tasks.cluster.pulse import Report
from genlm.tasks.cluster.session import FOLDER, LOCK, Running, Session, open_session
from genlm.tasks.cluster.source import chunks, digests
from genlm.tasks.cluster.worker import Made, Worker
from genlm.tasks.generate import Limits
from genlm.views.batch import ClusterProgress

ROWS = 10
SIZE = 4


class Quiet:
    """An office that takes what it is told."""

    def __init__(self) -> None:
        self.models: list[BatchModel] = []
        self.reports: list[Report] = []
        self.says_stop = False

    def check_model(self, model: BatchModel) -> None:
        self.models.append(model)

    def report(self, report: Report) -> bool:
        self.reports.append(report)
        return self.says_stop


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"id": f"r{n}", "prompt": "The king " * (n + 1)}) for n in range(ROWS)]
    lines[5] = "{torn"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def plan(tiny: Path, prompts: Path, tmp_path: Path) -> Plan:
    return planned(tiny, [prompts], tmp_path / "parts")


def planned(model: Path, paths: list[Path], output: Path, **choices: object) -> Plan:
    settings = Settings(Strategy.parse("top-p:top_p=0.9"), 3, Limits(5), deterministic=True)
    with open_inputs(paths) as files:
        return make_plan(
            files, Fields(), settings, ModelChoice(find_model(str(model)), "cpu"), str(output), as_line, **choices
        )


def make_all(plan: Plan, office: Quiet | None = None) -> list[Made]:
    """What one worker makes of all chunks, written as the pipeline does."""
    worker, made = Worker(plan, office or Quiet()), []
    for file in range(len(plan.files)):
        for chunk in chunks(plan, file, SIZE):
            part = worker.make(pickle.loads(pickle.dumps(chunk)))
            made.append(part)
            if part.data is not None:
                plan.folder.write(part.part, part.data)
    return made


def alone(plan: Plan, tmp_path: Path) -> bytes:
    """The same of `genlm batch` without a cluster."""
    output = tmp_path / "alone.jsonl"
    paths = [str(file.path) for file in plan.files]
    done = call("batch", *paths, "-o", output, "-m", plan.model.folder.name, "--seed", "3", "--max-new-tokens", "5",
                "--deterministic", "--device", "cpu")  # fmt: skip
    assert done.code == 3, done.err
    return output.read_bytes()


def finish(plan: Plan) -> Manifest:
    """Write the manifest that a run leaves."""
    rows = tuple(sum(len(chunk.jobs) for chunk in chunks(plan, file, SIZE)) for file in range(len(plan.files)))
    manifest = Manifest(
        tuple(file.name for file in plan.files), rows, SIZE, made_with(plan.settings, plan.model.known), sum(rows), 1
    )
    manifest.write(plan.folder)
    return manifest


class TestPlan:
    def test_it_travels(self, plan: Plan) -> None:
        assert pickle.loads(pickle.dumps(plan)) == plan

    def test_paths_in_it_mean_the_same_on_every_machine(
        self, tiny: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(prompts.parent)
        plan = planned(tiny, [Path(prompts.name)], tmp_path)
        assert plan.files[0].path == prompts
        assert plan.files[0].name == prompts.name

    @pytest.mark.parametrize(
        ("rows", "workers", "size"), [(0, 1, 16), (10, 8, 16), (1000, 2, 125), (1001, 2, 126), (10**8, 64, 4096)]
    )
    def test_parts_are_enough_for_all_workers_and_not_too_small(self, rows: int, workers: int, size: int) -> None:
        assert rows_per_part(rows, workers) == size

    def test_names_of_parts_sort_as_the_input_does(self) -> None:
        names = [part_name(file, number) for file in (0, 9, 10) for number in (0, 9, 10, 99_999)]
        assert sorted(names) == names

    def test_a_model_that_is_not_on_a_machine(self, tiny: Path) -> None:
        found = find_model(str(tiny))
        with pytest.raises(GenlmError, match="on a machine of the cluster"):
            ModelChoice(replace(found, path=Path("/not/here"))).load()

    def test_ids_are_compared_by_their_digests(self, plan: Plan) -> None:
        (some,) = digests(plan, 0)
        assert len(some) == 8 * ROWS
        assert len({some[at : at + 8] for at in range(0, len(some), 8)}) == ROWS

    def test_a_bad_row_ends_a_strict_run_before_it_begins(self, tiny: Path, prompts: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"prompts\.jsonl, line 6: not valid JSON"):
            list(digests(planned(tiny, [prompts], tmp_path / "out", is_strict=True), 0))


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            InputError("wrong", hint="do"),
            HubUnreachable("gpt2", "it rains"),
            SpecError("wrong", spec="top-p:x", start=6, end=7),
        ],
    )
    def test_they_travel(self, error: GenlmError) -> None:
        arrived = pickle.loads(pickle.dumps(error))
        assert type(arrived) is type(error)
        assert str(arrived) == str(error)
        assert vars(arrived) == vars(error)


class TestWorker:
    def test_its_parts_are_what_one_machine_makes(self, plan: Plan, tmp_path: Path) -> None:
        made = make_all(plan)
        assert [(part.rows, part.failed) for part in made] == [(4, 0), (4, 1), (2, 0)]
        assert b"".join(part.data or b"" for part in made) == alone(plan, tmp_path)

    def test_the_model_is_loaded_once_and_only_if_it_is_needed(self, plan: Plan) -> None:
        office = Quiet()
        make_all(plan, office)
        assert len(office.models) == 1
        make_all(plan, office)
        assert len(office.models) == 1

    def test_a_part_that_is_whole_stays_as_it_is(self, plan: Plan) -> None:
        make_all(plan)
        assert all(part.data is None for part in make_all(plan))

    def test_a_part_torn_at_any_byte_keeps_its_whole_records(self, plan: Plan) -> None:
        first = next(part for part in make_all(plan) if part.data)
        assert first.data is not None
        path, last = Path(plan.output, first.part), first.data.rstrip(b"\n").rfind(b"\n") + 1
        for end in range(last, len(first.data)):
            path.write_bytes(first.data[:end])
            records, _ = read_records(plan.folder, first.part)
            # Without its line break the last record is whole, and stands.
            assert [record["id"] for record in records] == ["r0", "r1", "r2", "r3"][
                : 4 if end == len(first.data) - 1 else 3
            ]

    @pytest.mark.parametrize("lost", [1, 2, 40])
    def test_a_torn_part_becomes_whole_again(self, plan: Plan, lost: int) -> None:
        first = next(part for part in make_all(plan) if part.data)
        assert first.data is not None
        Path(plan.output, first.part).write_bytes(first.data[:-lost])
        assert Worker(plan, Quiet()).make(next(chunks(plan, 0, SIZE))).data == first.data

    def test_records_of_a_worker_that_was_lost_are_not_made_again(self, plan: Plan) -> None:
        (chunk, *_), office = list(chunks(plan, 0, SIZE)), Quiet()
        whole = Worker(plan, Quiet()).make(chunk).data
        assert whole is not None
        lost = Unfinished(plan.folder, chunk.part)
        lost.add(whole.decode().splitlines()[2])
        lost.keep()
        assert Worker(plan, office).make(chunk).data == whole
        assert sum(report.made for report in office.reports) == SIZE - 1

    def test_a_record_is_kept_in_time_though_no_other_comes(self, plan: Plan) -> None:
        kept = threading.Event()
        folder = SimpleNamespace(write=lambda name, data: kept.set())
        with mock.patch("genlm.tasks.cluster.parts.KEEP_EVERY_S", 0.01):
            Unfinished(folder, "part").add("a record")
            assert kept.wait(60.0)

    def test_of_a_part_that_is_whole_nothing_is_kept(self, plan: Plan) -> None:
        folder = SimpleNamespace(write=mock.Mock())
        unfinished = Unfinished(folder, "part")
        unfinished.add("a record")
        unfinished.forget()
        unfinished.keep()
        assert not folder.write.called

    def test_a_part_of_rows_that_moved_is_made_anew(self, plan: Plan, prompts: Path, tmp_path: Path) -> None:
        make_all(plan)
        lines = prompts.read_text().splitlines()
        prompts.write_text("\n".join([json.dumps({"id": "new", "prompt": "The fox"}), *lines]) + "\n")
        make_all(plan)
        parts = sorted((tmp_path / "parts").glob("part-*"))
        assert b"".join(part.read_bytes() for part in parts) == alone(plan, tmp_path)

    def test_failed_rows_are_done_again_if_wanted(self, plan: Plan, prompts: Path) -> None:
        make_all(plan)
        prompts.write_text(prompts.read_text().replace("{torn", json.dumps({"id": "r5", "prompt": "The king"})))
        assert [part.failed for part in make_all(replace(plan, retries=True))] == [0, 0, 0]

    def test_records_made_with_another_setting_are_refused(self, plan: Plan) -> None:
        make_all(plan)
        with pytest.raises(OutputError, match="made with seed 3, and now it is 4"):
            make_all(replace(plan, settings=replace(plan.settings, seed=4)))

    def test_records_of_a_model_that_was_trained_again_are_refused(self, copied: Path, plan: Plan) -> None:
        make_all(plan)
        edit_json(copied / "config.json", note="other weights under the same name")
        other = make_plan(
            plan.files, plan.fields, plan.settings, ModelChoice(find_model(str(copied)), "cpu"), plan.output, as_line
        )
        named = replace(other.model.folder, name=plan.model.folder.name)
        with pytest.raises(OutputError, match=r"made with model_fingerprint [0-9a-f]{16}, and now it is [0-9a-f]{16}"):
            make_all(replace(other, model=replace(other.model, folder=named)))

    def test_a_failure_ends_a_strict_run(self, plan: Plan) -> None:
        with pytest.raises(InputError, match="line 6: not valid JSON"):
            make_all(replace(plan, is_strict=True))

    def test_one_that_is_told_to_stop_begins_nothing(self, plan: Plan) -> None:
        worker, office = Worker(plan, office := Quiet()), office
        office.says_stop = True
        worker.make(next(chunks(plan, 0, SIZE)))
        chunk = list(chunks(plan, 0, SIZE))[1]
        assert worker.make(chunk).data is None

    def test_what_it_made_is_kept_when_it_fails(self, plan: Plan) -> None:
        chunk = list(chunks(plan, 0, SIZE))[1]
        with pytest.raises(InputError):
            Worker(replace(plan, is_strict=True), Quiet()).make(chunk)
        before, _ = read_records(plan.folder, chunk.part)
        made = Worker(plan, Quiet()).make(chunk)
        assert made.rows == SIZE
        assert len(before) < SIZE


class TestPartsAtOnce:
    """Several parts of one worker at the same time, as a cluster calls it."""

    @pytest.fixture
    def together(self, plan: Plan) -> Plan:
        """Rows of all parts share steps."""
        return replace(plan, settings=replace(plan.settings, deterministic=False), batch_size=ROWS)

    def test_they_are_what_each_is_alone(self, plan: Plan) -> None:
        parts = list(chunks(plan, 0, SIZE))
        worker = Worker(plan, Quiet())
        with ThreadPoolExecutor(len(parts)) as pool:
            together = [made.data for made in pool.map(worker.make, parts)]
        assert together == [Worker(plan, Quiet()).make(part).data for part in parts]

    def test_a_part_that_comes_later_shares_the_steps_of_those_under_way(
        self, together: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second, *_ = chunks(together, 0, SIZE)
        worker, begun = Worker(together, Quiet()), threading.Event()

        def wait_in_first_step(rows: int) -> None:
            if not sizes:
                begun.set()
                wait_until(lambda: worker._loop._waiting.jobs, "the other part")

        sizes = count_rows(monkeypatch, wait_in_first_step)
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(worker.make, first)
            assert begun.wait(60.0)
            other = pool.submit(worker.make, second)
            assert one.result().rows == other.result().rows == SIZE
        assert sizes[0] == SIZE
        assert max(sizes) > SIZE

    def test_a_part_that_is_asked_for_twice_is_made_twice(self, plan: Plan) -> None:
        """As where a cluster takes a worker for lost that is not."""
        chunk, *_ = chunks(plan, 0, SIZE)
        worker = Worker(plan, Quiet())
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(worker.make, [chunk, chunk])
        assert first.data == second.data == Worker(plan, Quiet()).make(chunk).data

    def test_a_part_that_is_made_twice_counts_its_rows_once(self, plan: Plan) -> None:
        side_by_side = threading.Barrier(2, timeout=60.0)

        def line(record: BatchRecord) -> str:
            side_by_side.wait()
            return plan.as_line(record)

        chunk, *_ = chunks(plan, 0, SIZE)
        office = Quiet()
        worker = Worker(replace(plan, as_line=line), office)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(worker.make, [chunk, chunk]))
        assert max(report.rows.get(chunk.part, 0) for report in office.reports) == SIZE

    def test_all_that_are_under_way_hear_of_an_error(self, plan: Plan, tmp_path: Path) -> None:
        gone = replace(plan.model, folder=replace(plan.model.folder, path=tmp_path / "gone"))
        worker = Worker(replace(plan, model=gone), Quiet())
        with ThreadPoolExecutor(2) as pool:
            made = [pool.submit(worker.make, chunk) for chunk in chunks(plan, 0, SIZE)]
            for each in made:
                with pytest.raises(ModelError, match="there is no folder"):
                    each.result(60.0)

    def test_all_that_are_under_way_end_when_it_is_told_to_stop(self, together: Plan) -> None:
        office = Quiet()
        office.says_stop = True
        worker = Worker(together, office)
        wait_until(worker._pulse.is_stopping, "the word to stop")
        with ThreadPoolExecutor(2) as pool:
            made = [pool.submit(worker.make, chunk) for chunk in chunks(together, 0, SIZE)]
            assert [each.result(60.0).data for each in made] == [None] * len(made)

    @pytest.mark.parametrize(("size", "parts"), [(16, 4), (300, 4), (375, 3), (512, 2), (4096, 2)])
    def test_there_are_rows_enough_to_fill_the_places_of_those_that_end(self, size: int, parts: int) -> None:
        assert parts_at_once(size) == parts


class TestFolder:
    @pytest.fixture(params=["path", "uri"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        path = tmp_path / "folder"
        return str(path) if request.param == "path" else path.as_uri()

    def test_what_is_written_is_read(self, place: str) -> None:
        folder = open_folder(place)
        assert folder.names() == []
        assert folder.read("a/b") is None
        folder.write("a/b", b"one")
        folder.write("a/b", b"two")
        folder.write("a/c", b"")
        assert folder.read("a/b") == b"two"
        assert folder.names("a") == ["b", "c"]
        folder.remove("a/b")
        assert folder.names("a") == ["c"]
        folder.remove("a")
        folder.remove("a")
        assert folder.names() == []

    def test_two_runs_at_once(self, tmp_path: Path) -> None:
        folder = open_folder(str(tmp_path / "parts"))
        with folder.locked(), pytest.raises(OutputError, match="being written by another run"), folder.locked():
            pass

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="is a file"):
            open_folder(str(tmp_path / "file")).names()

    def test_a_kind_of_place_that_is_not_known(self) -> None:
        with pytest.raises(InputError, match="cannot be reached"):
            open_folder("nowhere://x/y").names()


class TestRemoteFiles:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_rows_are_those_of_the_file(self, prompts: Path, suffix: str) -> None:
        import gzip

        data = prompts.read_bytes()
        path = prompts.with_name(prompts.name + suffix)
        path.write_bytes(gzip.compress(data) if suffix else data)
        with open_inputs([read_place(path.as_uri())]) as (far,), open_inputs([path]) as (near,):
            assert [row.columns for row in far.rows()] == [row.columns for row in near.rows()]
            assert isinstance(far.path, RemoteFile)

    def test_parquet(self, tmp_path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"prompt": ["one", "two"]}), tmp_path / "a.parquet")
        with open_inputs([read_place((tmp_path / "a.parquet").as_uri())]) as (file,):
            assert [row.columns["prompt"] for row in file.rows()] == ["one", "two"]

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        place = read_place((tmp_path / "none.txt").as_uri())
        with pytest.raises(InputError, match="no such file"), open_inputs([place]):
            pass


class TestMerge:
    @pytest.mark.parametrize("name", ["all.jsonl", "all.csv", "all.parquet"])
    def test_it_is_the_file_of_one_machine(self, plan: Plan, tmp_path: Path, name: str) -> None:
        make_all(plan)
        finish(plan)
        merge_parts(plan.output, tmp_path / name)
        expected = alone(plan, tmp_path)
        if name.endswith("jsonl"):
            assert (tmp_path / name).read_bytes() == expected
        else:
            assert (tmp_path / name).stat().st_size > 0

    @pytest.mark.parametrize("damage", ["gone", "torn", "short"])
    def test_a_part_that_is_not_whole(self, plan: Plan, tmp_path: Path, damage: str) -> None:
        make_all(plan)
        finish(plan)
        part = tmp_path / "parts" / part_name(0, 1)
        change: dict[str, Callable[[], object]] = {
            "gone": part.unlink,
            "torn": lambda: part.write_bytes(part.read_bytes()[:-1]),
            "short": lambda: part.write_bytes(part.read_bytes().split(b"\n", 1)[1]),
        }
        change[damage]()
        done = call("batch", "--merge", plan.output, "-o", tmp_path / "all.jsonl")
        assert "is not finished: part-00000-0000001.jsonl has" in done.error()
        assert "--resume" in done.hint()
        assert not (tmp_path / "all.jsonl").exists()

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        assert "holds no parts" in call("batch", "--merge", tmp_path, "-o", tmp_path / "all.jsonl").error()

    def test_a_file_that_is_there_stays(self, plan: Plan, tmp_path: Path) -> None:
        make_all(plan)
        finish(plan)
        (tmp_path / "all.jsonl").write_text("mine")
        assert "is there already" in call("batch", "--merge", plan.output, "-o", tmp_path / "all.jsonl").error()
        assert call("batch", "--merge", plan.output, "-o", tmp_path / "all.jsonl", "--overwrite").code == 0
        assert (tmp_path / "all.jsonl").read_text() != "mine"

    def test_what_does_not_go_with_it(self, tmp_path: Path) -> None:
        done = call("batch", "--merge", tmp_path, "-o", "x.jsonl", "--seed", "3")
        assert (done.code, done.error()) == (2, "--merge and --seed cannot be combined")


class TestOutput:
    def test_nothing_there_begins_anew(self, plan: Plan) -> None:
        assert check_output(plan, plan.folder) is None

    def test_parts_are_gone_on_with_only_if_wanted(self, plan: Plan) -> None:
        manifest = finish(plan)
        with pytest.raises(OutputError, match="is there already"):
            check_output(plan, plan.folder)
        assert check_output(replace(plan, resumes=True), plan.folder) == manifest
        assert check_output(replace(plan, overwrites=True), plan.folder) is None

    def test_a_folder_of_something_else_is_never_touched(self, plan: Plan, tmp_path: Path) -> None:
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "letter.txt").write_text("mine")
        for one in (plan, replace(plan, overwrites=True), replace(plan, resumes=True)):
            with pytest.raises(OutputError, match="no parts of genlm batch"):
                check_output(one, one.folder)

    def test_parts_without_a_manifest_are_not_taken_for_nothing(self, plan: Plan) -> None:
        make_all(plan)
        with pytest.raises(OutputError, match="without manifest"):
            check_output(replace(plan, resumes=True), plan.folder)

    def test_a_changed_setting_is_refused_with_both_values(self, plan: Plan) -> None:
        finish(plan)
        changed = replace(plan, resumes=True, settings=replace(plan.settings, limits=Limits(6)))
        with pytest.raises(OutputError, match="made with max_new_tokens 5, and now it is 6"):
            check_output(changed, changed.folder)

    def test_a_seed_that_was_drawn_gives_way_to_the_one_that_is_there(self, plan: Plan) -> None:
        finish(plan)
        drawn = replace(plan, resumes=True, has_seed=False, settings=replace(plan.settings, seed=99))
        assert check_output(drawn, drawn.folder) is not None

    @pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": "else"}', b"\xff"])
    def test_a_manifest_that_is_none(self, plan: Plan, data: bytes) -> None:
        plan.folder.write("manifest.json", data)
        with pytest.raises(OutputError, match="is no manifest"):
            read_manifest(plan.folder)


class TestUsage:
    def run(self, tmp_path: Path, *more: str) -> str:
        (tmp_path / "p.txt").write_text("The king\n")
        return call("batch", tmp_path / "p.txt", "-o", tmp_path / "parts", "-m", "fable", *more).error()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--engine", "ray", "--workers", "0"], "--workers must be 1 or more"),
            (["--engine", "ray", "--cpus-per-worker", "0"], "--cpus-per-worker must be more than 0"),
            (["--engine", "ray", "--gpus-per-worker", "-1"], "--gpus-per-worker must be more than 0"),
            (["--engine", "ray", "--unordered"], "--engine ray and --unordered cannot be combined"),
            (["--engine", "ray", "--address", "auto", "--dashboard"], "--dashboard is for a Ray on this machine"),
            (["--workers", "2"], "--engine local and --workers cannot be combined"),
        ],
    )
    def test_what_makes_no_sense(self, tmp_path: Path, arguments: list[str], said: str) -> None:
        assert said in self.run(tmp_path, *arguments)

    def test_an_output_that_is_meant_as_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("The king\n")
        done = call("batch", tmp_path / "p.txt", "-o", tmp_path / "out.jsonl", "-m", "fable", "--engine", "ray")
        assert "a folder of part files, not a file such as out.jsonl" in done.error()
        assert "genlm batch --merge" in done.hint()

    def test_standard_input_is_not_on_other_machines(self, tmp_path: Path) -> None:
        arguments = ["--input-format", "txt", "-o", tmp_path / "parts", "--engine", "ray", "--address", "auto"]
        assert "on this machine only" in call("batch", "-", *arguments, stdin=b"x").error()

    def test_without_ray(self, tmp_path: Path) -> None:
        """Told before a model is looked for, which may be a long download."""
        with (
            mock.patch("genlm.tasks.cluster.session.find_spec", return_value=None),
            mock.patch("genlm.cli.options.find_model", pytest.fail),
        ):
            (tmp_path / "p.txt").write_text("The king\n")
            done = call("batch", tmp_path / "p.txt", "-o", tmp_path / "parts", "-m", "fable", "--engine", "ray")
        assert (done.code, done.error()) == (2, "--engine ray needs Ray Data")
        assert done.hint() == "pip install 'genlm[ray]'"


class TestResources:
    def asked(
        self, has: dict[str, float], address: str | None = "auto", machines: int = 1, **asked: float
    ) -> Resources:
        """What workers take of a cluster that has so much."""
        nodes = [{"Alive": True}] * machines + [{"Alive": False}]
        ray = SimpleNamespace(cluster_resources=lambda: has, nodes=lambda: nodes)
        with mock.patch.dict(sys.modules, ray=ray):
            return Session(address).resources(**{"workers": None, "cpus": None, "gpus": None, **asked})

    @pytest.mark.parametrize(
        ("has", "asked", "given"),
        [
            ({"CPU": 8.0}, {}, Resources(1, 8.0)),
            ({"CPU": 8.0}, {"workers": 3}, Resources(3, 2.0)),
            ({"CPU": 8.0}, {"cpus": 2.0}, Resources(4, 2.0)),
            ({"CPU": 64.0, "GPU": 8.0}, {}, Resources(8, 1.0, 1.0)),
            ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 0.5}, Resources(16, 1.0, 0.5)),
            ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 0.0, "workers": 4}, Resources(4, 16.0, 0.0)),
        ],
    )
    def test_what_is_not_said_fits_the_cluster(
        self, has: dict[str, float], asked: dict[str, float], given: Resources
    ) -> None:
        assert self.asked(has, **asked) == given

    def test_machines_without_gpus_have_a_worker_each(self) -> None:
        assert self.asked({"CPU": 12.0}, machines=3) == Resources(3, 4.0)

    def test_more_than_this_machine_has_would_wait_for_ever(self) -> None:
        with pytest.raises(UsageError, match="3 workers with 1 CPUs and 0 GPUs each are more than this machine has"):
            self.asked({"CPU": 2.0}, address=None, workers=3, cpus=1.0)

    @pytest.mark.parametrize(
        ("address", "raised", "said", "hint"),
        [
            (None, "no memory", "Ray does not start on this machine: no memory", "--verbose"),
            (
                None,
                "Cannot include dashboard with missing packages.",
                "--dashboard needs Ray's dashboard",
                "ray[default]",
            ),
            ("h:1", "gone", "no Ray cluster at h:1: gone", "ray start --head"),
            ("ray://h:1", "needs `ray[client]`", "ray://h:1 needs Ray's client", "pip install 'ray[client]'"),
            ("h:1", "RPC error: InvalidAuthToken", "the Ray cluster at h:1 wants its token", "RAY_AUTH_MODE=token"),
        ],
    )
    def test_a_cluster_that_is_not_reached(self, address: str | None, raised: str, said: str, hint: str) -> None:
        def init(**_: object) -> None:
            raise ConnectionError(raised)

        with answering(init), pytest.raises(ClusterError) as caught, open_session(address):
            pass
        assert str(caught.value) == said
        assert hint in (caught.value.hint or "")

    @pytest.mark.parametrize("scheme", ["", "ray://"])
    def test_nobody_at_its_address_is_found_out_at_once(self, scheme: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
            ray = SimpleNamespace(init=pytest.fail)
            with (
                mock.patch.dict(sys.modules, ray=ray),
                pytest.raises(ClusterError, match=f"no Ray cluster at {address}: Connection refused"),
                open_session(address),
            ):
                pass

    def test_sigterm_while_it_starts_ends_the_program_as_it_always_does(self) -> None:
        def init(**_: object) -> None:
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            signal.raise_signal(signal.SIGTERM)

        before = signal.getsignal(signal.SIGTERM)
        with answering(init), pytest.raises(SystemExit, match="143"), open_session("h:1"):
            pass
        assert signal.getsignal(signal.SIGTERM) is before

    def test_what_ray_does_with_sigterm_is_not_for_the_program(self) -> None:
        def init(**_: object) -> None:
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

        before = signal.getsignal(signal.SIGTERM)
        with answering(init), open_session("h:1"):
            assert signal.getsignal(signal.SIGTERM) is before


@contextmanager
def answering(init: Callable[..., None]) -> Iterator[None]:
    """A Ray that starts so, and takes connections at every address."""
    ray = SimpleNamespace(init=init, shutdown=lambda: None)
    with mock.patch.dict(sys.modules, ray=ray), mock.patch("socket.create_connection"):
        yield


class TestFolders:
    """Those of the Rays on this machine."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> Iterator[None]:
        ray = SimpleNamespace(init=lambda **_: None, shutdown=lambda: None)
        with (
            mock.patch.dict(sys.modules, ray=ray),
            mock.patch("genlm.tasks.cluster.session.SHORT_TMP", str(tmp_path)),
        ):
            yield

    def test_one_goes_with_its_command(self, tmp_path: Path) -> None:
        with open_session(None):
            assert len(list(tmp_path.iterdir())) == 1
        assert list(tmp_path.iterdir()) == []

    def test_one_of_a_command_that_was_killed_goes_when_the_next_begins(self, tmp_path: Path) -> None:
        left = tmp_path / f"{FOLDER}killed"
        (left / "session").mkdir(parents=True)
        (left / LOCK).write_text("held")
        with open_session(None):
            assert not left.exists()

    def test_one_of_a_command_that_runs_stays(self, tmp_path: Path) -> None:
        with open_session(None):
            (first,) = tmp_path.iterdir()
            with open_session(None):
                assert first.exists()

    def test_one_that_is_not_of_a_command_stays(self, tmp_path: Path) -> None:
        (tmp_path / f"{FOLDER}other").mkdir()
        with open_session(None):
            pass
        assert (tmp_path / f"{FOLDER}other").exists()


class Died(Exception):
    """Ray's word for an actor that is gone; all its errors have one root, which this stands for as well."""


class Unavailable(Died):
    """Ray's word for an actor that cannot be reached now."""


class TestRunning:
    """A batch under way, seen through a Ray whose answers are values to give or errors to raise."""

    STATE = ClusterState(10, 5, 5, 50, 1.0, 2, 2, [])

    @pytest.fixture(autouse=True)
    def ray(self) -> Iterator[None]:
        def get(answer: object) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

        errors = SimpleNamespace(RayError=Died, ActorUnavailableError=Unavailable)
        ray = SimpleNamespace(get=get, wait=lambda answers, timeout: (answers, []), exceptions=errors)
        with (
            mock.patch.dict(sys.modules, {"ray": ray, "ray.exceptions": errors}),
            mock.patch("genlm.tasks.cluster.session.POLL_S", 0.0),
        ):
            yield

    def running(self, **answers: list[object]) -> Running:
        """One whose conductor gives these answers, one after the other, by method."""

        def method(given: list[object]) -> SimpleNamespace:
            left = iter(given)
            return SimpleNamespace(remote=lambda *_: next(left))

        return Running(SimpleNamespace(**{name: method(given) for name, given in answers.items()}), mock.sentinel.plan)

    def test_a_conductor_that_is_out_of_reach_is_asked_again(self) -> None:
        running = self.running(run=["its end"], look=[Unavailable(), Unavailable(), self.STATE])
        assert running.look() == self.STATE

    def test_one_that_stays_out_of_reach_is_lost(self) -> None:
        running = self.running(run=["its end"], look=[Unavailable("no way there")] * 3)
        with (
            mock.patch("genlm.tasks.cluster.session.UNREACHED_S", -1.0),
            pytest.raises(ClusterError, match="the cluster was lost: no way there") as caught,
        ):
            running.look()
        assert caught.value.hint == "--resume continues"

    def test_one_that_is_gone_is_lost(self) -> None:
        running = self.running(run=[Died("it is dead")], look=[Died("it is dead")])
        with pytest.raises(ClusterError, match="the cluster was lost: it is dead"):
            running.look()
        assert running.wait()
        with pytest.raises(ClusterError, match="the cluster was lost: it is dead"):
            running.outcome()

    def test_a_connection_that_ends_is_not_the_end_of_the_batch(self) -> None:
        running = self.running(run=[Unavailable()], outcome=[Unavailable(), "its end"])
        assert [running.wait() for _ in range(3)] == [False, False, True]
        assert running.outcome() == "its end"


def test_the_display_says_once_that_no_worker_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("genlm.views.batch.time.monotonic", lambda: clock[0])
    progress = ClusterProgress()

    def told_after(seconds: float, workers: int) -> bool:
        clock[0] += seconds
        progress.see(ClusterState(10, 0, 0, 0, 0.0, workers, 0, []))
        return "no worker runs" in capsys.readouterr().err

    assert not told_after(0, workers=0)
    assert not told_after(29, workers=0)
    assert not told_after(1, workers=1)
    assert not told_after(100, workers=0)
    assert not told_after(29, workers=0)
    assert told_after(2, workers=0)
    assert not told_after(60, workers=0)


def test_the_display_tells_rows_speed_and_workers() -> None:
    with contextlib.redirect_stderr(FakeTerminal()) as shown, ClusterProgress() as progress:
        progress.see(ClusterState(1000, 600, 500, 20_000, 10.0, 3, 3, []))
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.getvalue())
    assert "600/1000 prompts 2,000 tokens/s  3 workers 8.0 s left" in plain
    assert progress.summary("parts", 2) == (
        "600 of 1,000 prompts are in parts  2 of them with an error  20,000 tokens in 10 s (2,000 tokens/s)"
    )
