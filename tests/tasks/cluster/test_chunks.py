"""Plans and chunks: plain data that means the same on every machine."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from support.cluster import ROWS, make_plan

from genlm.errors import GenlmError, HubUnreachable, InputError, SpecError
from genlm.model.source import find_model
from genlm.tasks.batch.run import ModelChoice, Plan
from genlm.tasks.cluster.parts import chunks_at_once, part_name, read_digests, rows_per_chunk


def test_a_plan_can_be_sent_to_other_machines(plan: Plan) -> None:
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_paths_do_not_depend_on_the_working_directory(
    tiny: Path, prompt_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prompt_file.parent)
    plan = make_plan(tiny, [Path(prompt_file.name)], Path("parts"))
    assert plan.files[0].path == prompt_file
    assert plan.files[0].name == prompt_file.name
    assert plan.output == str(tmp_path / "parts")


def test_a_model_that_is_not_on_a_machine(tiny: Path) -> None:
    missing = replace(find_model(str(tiny)), path=Path("/not/here"))
    with pytest.raises(GenlmError, match="on a machine of the cluster"):
        ModelChoice(missing).on_this_machine()


@pytest.mark.parametrize(
    ("rows", "workers", "size"), [(0, 1, 16), (10, 8, 16), (1000, 2, 125), (1001, 2, 126), (10**8, 64, 4096)]
)
def test_chunks_are_enough_for_all_workers_and_not_too_small(rows: int, workers: int, size: int) -> None:
    assert rows_per_chunk(rows, workers) == size


@pytest.mark.parametrize(("size", "count"), [(16, 4), (300, 4), (375, 3), (512, 2), (4096, 2)])
def test_a_worker_takes_enough_rows_at_once_to_replace_those_that_finish(size: int, count: int) -> None:
    assert chunks_at_once(size) == count


def test_names_of_parts_sort_in_the_order_of_the_input() -> None:
    names = [part_name(file, number) for file in (0, 9, 10) for number in (0, 9, 10, 99_999)]
    assert sorted(names) == names


def test_every_id_has_its_own_digest(plan: Plan) -> None:
    (digests,) = read_digests(plan, 0)
    assert len(digests) == 8 * ROWS
    assert len({digests[at : at + 8] for at in range(0, len(digests), 8)}) == ROWS


def test_if_errors_stop_the_run_a_bad_row_ends_it_before_it_starts(
    tiny: Path, prompt_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"prompts\.jsonl, line 6: not valid JSON"):
        list(read_digests(make_plan(tiny, [prompt_file], tmp_path / "out", stop_on_error=True), 0))


@pytest.mark.parametrize(
    "error",
    [
        InputError("wrong", hint="do"),
        HubUnreachable("gpt2", "it rains"),
        SpecError("wrong", spec="top-p:x", start=6, end=7),
    ],
)
def test_errors_can_be_sent_to_other_machines(error: GenlmError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
