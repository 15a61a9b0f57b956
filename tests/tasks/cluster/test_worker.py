"""A worker: it makes the parts that one machine makes, one or several at a time, and repeats no work."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.cluster import SIZE, FakeCoordinator, folder_of, make_all, run_locally
from support.driving import wait_until
from support.gpt2 import edit_json

from genlm.errors import InputError, ModelError, OutputError
from genlm.model.fingerprint import fingerprinted
from genlm.model.load import Model
from genlm.model.source import find_model
from genlm.records.batch import BatchRecord
from genlm.tasks.batch.jobs import run_jobs
from genlm.tasks.batch.run import Plan
from genlm.tasks.cluster import worker as worker_module
from genlm.tasks.cluster.parts import UnfinishedPart, read_chunks, read_records
from genlm.tasks.cluster.worker import JobQueue, Worker


def test_its_parts_are_what_one_machine_makes(plan: Plan, tmp_path: Path) -> None:
    results = make_all(plan)
    assert [(part.rows, part.failed) for part in results] == [(4, 0), (4, 1), (2, 0)]
    assert b"".join(part.data or b"" for part in results) == run_locally(plan, tmp_path)


def test_the_model_is_loaded_once_and_only_if_needed(plan: Plan) -> None:
    coordinator = FakeCoordinator()
    make_all(plan, coordinator)
    assert len(coordinator.models) == 1
    make_all(plan, coordinator)
    assert len(coordinator.models) == 1


def test_a_complete_part_stays_as_it_is(plan: Plan) -> None:
    make_all(plan)
    assert all(part.data is None for part in make_all(plan))


@pytest.mark.parametrize("lost", [1, 2, 40])
def test_a_torn_part_becomes_complete_again(plan: Plan, lost: int) -> None:
    first = next(part for part in make_all(plan) if part.data)
    assert first.data is not None
    Path(plan.output, first.part).write_bytes(first.data[:-lost])
    assert Worker(plan, FakeCoordinator()).make(next(read_chunks(plan, 0, SIZE))).data == first.data


def test_a_damaged_record_of_a_part_is_named_and_made_again(plan: Plan) -> None:
    first = next(part for part in make_all(plan) if part.data)
    assert first.data is not None
    coordinator = FakeCoordinator()
    dice = random.Random(4)
    for _ in range(5):
        damaged = bytearray(first.data)
        bit = dice.randrange(8 * (len(damaged) - 1))
        damaged[bit // 8] ^= 1 << bit % 8
        path = Path(plan.output, first.part)
        path.write_bytes(damaged)
        coordinator.reports.clear()
        assert Worker(plan, coordinator).make(next(read_chunks(plan, 0, SIZE))).data == first.data
        line = 1 + first.data.count(b"\n", 0, bit // 8)
        notice = f"{path}, line {line}: ignored a damaged record; its row runs again"
        assert notice in [each for report in coordinator.reports for each in report.notices]


def test_records_of_a_lost_worker_are_not_made_again(plan: Plan) -> None:
    chunk, *_ = read_chunks(plan, 0, SIZE)
    coordinator = FakeCoordinator()
    data = Worker(plan, FakeCoordinator()).make(chunk).data
    assert data is not None
    lost = UnfinishedPart(folder_of(plan), chunk.part)
    lost.add(data.decode().splitlines()[2])
    lost.keep()
    assert Worker(plan, coordinator).make(chunk).data == data
    assert sum(report.made for report in coordinator.reports) == SIZE - 1


def test_parts_of_rows_that_moved_are_made_again(plan: Plan, prompt_file: Path, tmp_path: Path) -> None:
    make_all(plan)
    lines = prompt_file.read_text().splitlines()
    prompt_file.write_text("\n".join([json.dumps({"id": "new", "prompt": "The fox"}), *lines]) + "\n")
    make_all(plan)
    parts = sorted((tmp_path / "parts").glob("part-*"))
    assert b"".join(part.read_bytes() for part in parts) == run_locally(plan, tmp_path)


def test_a_changed_prompt_is_refused_without_redo_changed(plan: Plan, prompt_file: Path, tmp_path: Path) -> None:
    make_all(plan)
    lines = prompt_file.read_text().splitlines()
    row = json.loads(lines[1])
    prompt_file.write_text("\n".join([lines[0], json.dumps(row | {"prompt": "changed"}), *lines[2:]]) + "\n")
    with pytest.raises(OutputError, match=f"1 row has another prompt than its record in .*parts: '{row['id']}'"):
        make_all(plan)
    coordinator = FakeCoordinator()
    make_all(replace(plan, redo_changed=True), coordinator)
    assert sum(report.made for report in coordinator.reports) == 1
    parts = sorted((tmp_path / "parts").glob("part-*"))
    assert b"".join(part.read_bytes() for part in parts) == run_locally(plan, tmp_path)


def test_rows_with_an_error_are_repeated_on_request(plan: Plan, prompt_file: Path) -> None:
    make_all(plan)
    prompt_file.write_text(prompt_file.read_text().replace("{torn", json.dumps({"id": "r5", "prompt": "The king"})))
    assert [part.failed for part in make_all(replace(plan, retry_errors=True))] == [0, 0, 0]


def test_records_made_with_another_setting_are_refused(plan: Plan) -> None:
    make_all(plan)
    with pytest.raises(OutputError, match=r"made with seed 3, and now it is 4 \(row 'r0'\)"):
        make_all(replace(plan, settings=replace(plan.settings, seed=4)))


def test_records_of_a_retrained_model_are_refused(copied: Path, plan: Plan) -> None:
    make_all(plan)
    edit_json(copied / "config.json", note="other weights under the same name")
    retrained = replace(fingerprinted(find_model(str(copied))), name=plan.model.folder.name)
    with pytest.raises(OutputError, match=r"made with model_fingerprint [0-9a-f]{16}, and now it is [0-9a-f]{16}"):
        make_all(replace(plan, model=replace(plan.model, folder=retrained)))


def test_an_error_can_stop_the_run(plan: Plan) -> None:
    with pytest.raises(InputError, match="line 6: not valid JSON"):
        make_all(replace(plan, stop_on_error=True))


def test_a_worker_that_must_stop_starts_nothing(plan: Plan) -> None:
    first, second, *_ = read_chunks(plan, 0, SIZE)
    coordinator = FakeCoordinator()
    worker = Worker(plan, coordinator)
    coordinator.must_stop = True
    worker.make(first)
    assert worker.make(second).data is None


def test_a_worker_that_fails_keeps_its_records(plan: Plan) -> None:
    _, chunk, *_ = read_chunks(plan, 0, SIZE)
    with pytest.raises(InputError):
        Worker(replace(plan, stop_on_error=True), FakeCoordinator()).make(chunk)
    assert len(read_records(folder_of(plan), chunk.part).records) < SIZE
    assert Worker(plan, FakeCoordinator()).make(chunk).rows == SIZE


class TestSeveralChunksAtOnce:
    """Several threads give chunks to one worker, as Ray Data does."""

    def test_each_part_is_the_same_as_alone(self, plan: Plan) -> None:
        chunks = list(read_chunks(plan, 0, SIZE))
        worker = Worker(plan, FakeCoordinator())
        with ThreadPoolExecutor(len(chunks)) as pool:
            together = [result.data for result in pool.map(worker.make, chunks)]
        assert together == [Worker(plan, FakeCoordinator()).make(chunk).data for chunk in chunks]

    def test_a_later_chunk_joins_the_loop_of_the_one_that_is_running(
        self, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second, *_ = read_chunks(plan, 0, SIZE)
        loops, running = [], threading.Event()

        def run(model: Model, jobs: JobQueue, **options: Any) -> Iterator[BatchRecord]:
            loops.append(options)
            for number, record in enumerate(run_jobs(model, jobs, **options)):
                if number == 0:
                    running.set()
                    wait_until(lambda: jobs.jobs, "the other chunk")
                yield record

        monkeypatch.setattr(worker_module, "run_jobs", run)
        worker = Worker(replace(plan, batch_size=1), FakeCoordinator())
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(worker.make, first)
            assert running.wait(60.0)
            other = pool.submit(worker.make, second)
            assert one.result().rows == other.result().rows == SIZE
        assert len(loops) == 1

    def test_a_chunk_that_is_given_twice_is_made_twice(self, plan: Plan) -> None:
        """A cluster does this if it wrongly takes a worker for lost."""
        chunk, *_ = read_chunks(plan, 0, SIZE)
        worker = Worker(plan, FakeCoordinator())
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(worker.make, [chunk, chunk])
        assert first.data == second.data == Worker(plan, FakeCoordinator()).make(chunk).data

    def test_a_chunk_that_is_made_twice_counts_its_rows_once(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        side_by_side = threading.Barrier(2, timeout=60.0)
        add = UnfinishedPart.add

        def add_together(self: UnfinishedPart, line: str) -> None:
            side_by_side.wait()
            add(self, line)

        monkeypatch.setattr(UnfinishedPart, "add", add_together)
        chunk, *_ = read_chunks(plan, 0, SIZE)
        coordinator = FakeCoordinator()
        worker = Worker(plan, coordinator)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(worker.make, [chunk, chunk]))
        assert max(report.rows.get(chunk.part, 0) for report in coordinator.reports) == SIZE

    def test_an_error_ends_all_of_them(self, plan: Plan, tmp_path: Path) -> None:
        gone = replace(plan.model, folder=replace(plan.model.folder, path=tmp_path / "gone"))
        worker = Worker(replace(plan, model=gone), FakeCoordinator())
        with ThreadPoolExecutor(2) as pool:
            results = [pool.submit(worker.make, chunk) for chunk in read_chunks(plan, 0, SIZE)]
            for result in results:
                with pytest.raises(ModelError, match="there is no folder"):
                    result.result(60.0)

    def test_a_stop_ends_all_of_them(self, plan: Plan) -> None:
        coordinator = FakeCoordinator()
        coordinator.must_stop = True
        with mock.patch("genlm.tasks.cluster.worker.HEARTBEAT_S", 0.01):
            worker = Worker(plan, coordinator)
            # The answer to a report is taken before the next one is sent.
            wait_until(lambda: len(coordinator.reports) > 1, "the second report")
        with ThreadPoolExecutor(2) as pool:
            results = [pool.submit(worker.make, chunk) for chunk in read_chunks(plan, 0, SIZE)]
            assert [result.result(60.0).data for result in results] == [None] * len(results)
