"""`genlm train` that is interrupted and resumed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from support.driving import Terminal, call
from support.systems import needs_unix
from support.training import QUICK

from genlm.cli.signals import graceful_interrupt
from genlm.formats.folder import open_folder
from genlm.records.train import TrainReport, TrainResult
from genlm.views.train import TrainView

pytestmark = pytest.mark.usefixtures("corpora")

LONG = ("--n-layer", "1", "--n-embd", "16", "--n-positions", "16", "--batch-size", "2", "--save-every", "15")
SPEC = ("story.txt", "--max-steps", "4000", "--dropout", "0.1", "--device", "cpu", "--dtype", "float32", *LONG)


@needs_unix("no SIGKILL")
def test_a_run_that_was_killed_and_resumed_has_the_same_weights() -> None:
    spec = [*SPEC[:1], "--max-steps", "80", *SPEC[3:]]
    assert call("train", *spec, "-o", "whole", "-q").code == 0
    started = subprocess.Popen(
        [sys.executable, "-m", "genlm", "train", *spec, "-o", "cut"], stderr=subprocess.PIPE, text=True
    )
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("step 20 "):
            break
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert Path("cut/checkpoint.safetensors").exists()
    assert not Path("cut/loss.png").exists()
    done = call("train", "--resume", "-o", "cut")
    assert done.code == 0, done.err
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert Path("cut/loss.png").exists()


# Kills itself when the given file is about to be moved into place.
KILLED = """
import os, signal, sys
from pathlib import Path
name = sys.argv.pop(1)
replace = Path.replace
def replace_or_die(path, target):
    if path.name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
Path.replace = replace_or_die
from genlm.cli.main import main
main(sys.argv[1:])
"""


@needs_unix("no SIGKILL")
@pytest.mark.parametrize(
    ("name", "again"),
    [
        # This run left nothing to resume, and a new run needs no --overwrite.
        ("training.json", []),
        ("tokenizer.json", ["--resume"]),
        ("checkpoint.safetensors", ["--resume"]),
        ("checkpoint.safetensors", ["--overwrite"]),
    ],
)
def test_nothing_is_left_of_a_run_that_was_killed_while_it_wrote_a_file(name: str, again: list[str]) -> None:
    spec = ["train", "likes.txt", *QUICK, "--save-every", "5", "-q"]
    done = subprocess.run([sys.executable, "-c", KILLED, name, *spec, "-o", "cut"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Path("cut/.new", name).exists()
    assert call(*spec, "-o", "cut", *again).code == 0
    assert call(*spec, "-o", "whole").code == 0
    assert sorted(path.name for path in Path("cut").iterdir()) == sorted(path.name for path in Path("whole").iterdir())
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_files_of_a_run_that_is_alive_are_left_alone() -> None:
    spec = ("train", "likes.txt", *QUICK, "-q", "-o", "model")
    assert call(*spec).code == 0
    with open_folder("model").locked():
        Path("model/.new").mkdir()
        Path("model/.new/checkpoint.safetensors").touch()
        for option in ("--overwrite", "--resume"):
            assert call(*spec, option).error() == "model/.lock is being written by another run"
        assert Path("model/.new/checkpoint.safetensors").exists()
    assert call(*spec, "--overwrite").code == 0
    assert not Path("model/.new").exists()


@pytest.mark.parametrize("lost", ["genlm.cli.train.draw_curve", "genlm.cli.train.model_card"])
def test_resume_writes_a_missing_card_and_curve(lost: str) -> None:
    spec = ("train", "likes.txt", *QUICK, "-q")
    assert call(*spec, "-o", "whole").code == 0
    with mock.patch(lost, side_effect=SystemExit(137)):
        assert call(*spec, "-o", "cut").code == 137
    before = Path("cut/model.safetensors").stat()
    assert call("train", "--resume", "-o", "cut", "-q").code == 0
    assert Path("cut/model.safetensors").stat() == before, "nothing is trained again"
    assert sorted(path.name for path in Path("cut").iterdir()) == sorted(path.name for path in Path("whole").iterdir())
    assert Path("cut/README.md").read_text().startswith("---\nlibrary_name")
    assert call("train", "--resume", "-o", "cut").error() == "the run in cut has finished"


def test_two_runs_cannot_share_a_folder() -> None:
    spec = ("train", "likes.txt", *QUICK, "-q", "-o", "model")
    with open_folder("model").locked():
        assert call(*spec).error() == "model/.lock is being written by another run"
        assert [path.name for path in Path("model").iterdir()] == [".lock"]
    assert call(*spec).code == 0
    before = Path("model/model.safetensors").stat()
    with open_folder("model").locked():
        for option in ("--overwrite", "--resume"):
            assert call(*spec, option).error() == "model/.lock is being written by another run"
    assert Path("model/model.safetensors").stat() == before
    assert not Path("model/.lock").exists()


def test_ctrl_c_saves_and_says_how_to_continue() -> None:
    with Terminal("train", *SPEC, "-o", "cut") as terminal:
        terminal.wait_for("tok/s")
        terminal.press(b"\x03")
        assert terminal.end() == 130
    shown = terminal.shown.decode()
    step = int(re.search(r"interrupted at step (\d+); to continue: genlm train --resume -o cut", shown)[1])  # type: ignore[index]
    assert "Traceback" not in shown
    done = call("train", *SPEC, "-o", "cut")
    assert done.hint() == "--resume continues it, --overwrite starts over"
    from genlm.tasks.train.folder import load_checkpoint

    assert load_checkpoint(Path("cut"))[0].step == step


def test_sigterm_saves() -> None:
    show = TrainView.show

    def show_and_terminate(view: TrainView, record: TrainReport | TrainResult) -> None:
        show(view, record)
        if record.step == 10:
            signal.raise_signal(signal.SIGTERM)

    with mock.patch.object(TrainView, "show", show_and_terminate):
        done = call("train", "likes.txt", *QUICK, "-o", "cut")
    assert done.code == 143
    assert done.err.splitlines()[-1] == "interrupted at step 11; to continue: genlm train --resume -o cut"
    assert call("train", "--resume", "-o", "cut", "-q").code == 0
    assert call("train", "likes.txt", *QUICK, "-o", "whole", "-q").code == 0
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_a_second_signal_ends_the_run_immediately() -> None:
    with graceful_interrupt() as finishing:
        signal.raise_signal(signal.SIGINT)
        assert isinstance(finishing.ending, KeyboardInterrupt)
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)


def test_a_second_ctrl_c_ends_the_run_immediately() -> None:
    with graceful_interrupt() as finishing:
        assert not finishing()
        signal.raise_signal(signal.SIGINT)
        assert finishing()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_same_command_with_resume_continues() -> None:
    assert call("train", "likes.txt", "-o", "model", *QUICK, "-q").code == 0
    assert call("train", "likes.txt", "-o", "model", *QUICK, "--resume").error() == "the run in model has finished"
