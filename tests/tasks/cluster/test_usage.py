"""Wrong usage of `genlm batch --runner ray`, found before Ray is needed."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from support.driving import Done, call


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "p.txt"
    path.write_text("The king\n")
    return path


def run(prompts: Path, *more: str | Path) -> Done:
    return call("batch", prompts, "-o", prompts.parent / "parts", "-m", "fable", *more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner", "ray", "--workers", "0"], "--workers must be 1 or more"),
        (["--runner", "ray", "--cpus-per-worker", "0"], "--cpus-per-worker must be more than 0"),
        (["--runner", "ray", "--gpus-per-worker", "-1"], "--gpus-per-worker must be 0 or more"),
        (["--runner", "ray", "--unordered"], "--runner ray and --unordered cannot be combined"),
        (["--runner", "ray", "--address", "auto", "--dashboard"], "--dashboard is for a Ray on this machine"),
        (["--workers", "2"], "--runner local and --workers cannot be combined"),
        (["--verbose"], "--runner local and --verbose cannot be combined"),
    ],
)
def test_options_that_make_no_sense(prompt_file: Path, arguments: list[str], message: str) -> None:
    done = run(prompt_file, *arguments)
    assert (done.code, message in done.error()) == (2, True), done.err


def test_the_output_must_not_look_like_a_file(prompt_file: Path, tmp_path: Path) -> None:
    done = run(prompt_file, "-o", tmp_path / "out.jsonl", "--runner", "ray")
    assert "a folder of part files, not a file such as out.jsonl" in done.error()
    assert f"genlm merge {tmp_path / 'out'} -o {tmp_path / 'out.jsonl'}" in done.hint()


def test_standard_input_is_not_on_other_machines(tmp_path: Path) -> None:
    arguments = ["--input-format", "txt", "-o", tmp_path / "parts", "--runner", "ray", "--address", "auto"]
    assert "only on this machine" in call("batch", "-", *arguments, stdin=b"x").error()


def test_a_missing_ray_is_reported_before_a_model_is_downloaded(prompt_file: Path) -> None:
    with (
        mock.patch("genlm.tasks.cluster.session.find_spec", return_value=None),
        mock.patch("genlm.cli.options.find_model", pytest.fail),
    ):
        done = run(prompt_file, "--runner", "ray")
    assert (done.code, done.error()) == (2, "Ray Data is not installed")
    assert done.hint() == "pip install 'genlm[ray]'"
