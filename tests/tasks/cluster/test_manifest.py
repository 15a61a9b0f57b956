"""What is in the output folder already: when a run continues it, and when it refuses to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.cluster import folder_of, make_all, write_manifest

from genlm.errors import InputError, OutputError
from genlm.tasks.batch.run import Plan
from genlm.tasks.cluster.parts import check_files, check_output, choose_seed, read_manifest
from genlm.tasks.generate import Limits


def test_a_manifest_is_read_as_it_was_written(plan: Plan) -> None:
    manifest = write_manifest(plan)
    assert read_manifest(folder_of(plan)) == manifest
    values = json.loads(Path(plan.output, "manifest.json").read_text())
    assert list(values) == ["format", "files", "rows", "rows_per_part", "made_with", "made_by", "done", "failed"]
    assert values["made_with"] == {
        "model": plan.model.folder.name,
        "revision": None,
        "model_fingerprint": plan.model.folder.fingerprint,
        "dtype": None,
        "strategy": "top-p:top_p=0.9",
        "seed": 3,
        "max_new_tokens": 5,
        "num_return_sequences": 1,
        "stop": [],
        "overflow": "error",
        "deterministic": True,
    }


def test_an_empty_folder_starts_a_new_run(plan: Plan) -> None:
    assert check_output(plan, folder_of(plan)) is None


def test_parts_are_continued_only_on_request(plan: Plan) -> None:
    manifest = write_manifest(plan)
    with pytest.raises(OutputError, match="already exists"):
        check_output(plan, folder_of(plan))
    assert check_output(replace(plan, resume=True), folder_of(plan)) == manifest
    assert check_output(replace(plan, overwrite=True), folder_of(plan)) is None


def test_a_folder_of_something_else_is_never_touched(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "letter.txt").write_text("mine")
    for each in (plan, replace(plan, overwrite=True), replace(plan, resume=True)):
        with pytest.raises(OutputError, match="not parts of genlm batch"):
            check_output(each, folder_of(each))


def test_parts_without_a_manifest_are_refused(plan: Plan) -> None:
    make_all(plan)
    with pytest.raises(OutputError, match="without manifest"):
        check_output(replace(plan, resume=True), folder_of(plan))


def test_a_changed_setting_is_refused_with_both_values(plan: Plan) -> None:
    write_manifest(plan)
    changed = replace(plan, resume=True, settings=replace(plan.settings, limits=Limits(6)))
    with pytest.raises(OutputError, match="made with max_new_tokens 5, and now it is 6"):
        check_output(changed, folder_of(changed))


def test_without_a_seed_the_seed_of_the_parts_is_used(plan: Plan) -> None:
    manifest = write_manifest(plan)
    drawn = replace(plan, resume=True, has_seed=False, settings=replace(plan.settings, seed=99))
    assert check_output(drawn, folder_of(drawn)) == manifest
    assert choose_seed(drawn, manifest).seed == 3


def test_rows_may_be_added_but_not_removed(plan: Plan) -> None:
    manifest = write_manifest(plan)
    check_files(manifest, manifest.files, (manifest.total + 1,), "parts")
    with pytest.raises(InputError, match="had 10 rows when parts was started, and now it has 9"):
        check_files(manifest, manifest.files, (9,), "parts")
    with pytest.raises(InputError, match="and now the input is other"):
        check_files(manifest, ("other",), manifest.rows, "parts")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"format": "else"}', b"\xff", b'{"format": "genlm parts 1", "made_with": {}}']
)
def test_a_file_that_is_not_a_manifest(plan: Plan, data: bytes) -> None:
    folder_of(plan).write("manifest.json", data)
    with pytest.raises(OutputError, match="is not a manifest"):
        read_manifest(folder_of(plan))
