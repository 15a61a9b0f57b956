"""`genlm train` as a user sees it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from support.driving import FakeTerminal, Terminal, call
from support.systems import needs_unix

from genlm.cli.signals import graceful_interrupt
from genlm.formats.folder import open_folder
from genlm.records.train import TrainFacts, TrainReport, TrainResult
from genlm.views.train import TrainView, bar_numbers, report_line

LIKES = "我喜欢看电影。\n我喜欢听音乐。\n我喜欢阅读。\n"
QUICK = ("--n-layer", "1", "--n-embd", "16", "--n-positions", "16", "--max-steps", "20", "--device", "cpu")
STORY = "The fox went to the wood. The king went to the sea.\n" * 300


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few texts, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    Path("likes.txt").write_text(LIKES, "utf-8")
    Path("story.txt").write_text(STORY)
    Path("valid.txt").write_text(STORY[:600])
    return tmp_path


def test_twenty_bytes_are_learned_by_heart() -> None:
    Path("short.txt").write_text("Hello, little world!")
    done = call("train", "short.txt", "-o", "model", "--device", "cpu")
    assert (done.code, done.out) == (0, "")
    assert call("generate", "Hello", "-m", "model", "-s", "greedy", "-q").out.strip() == "Hello, little world!"


def test_nothing_but_lines_for_people_leaves_the_command() -> None:
    done = call("train", "likes.txt", "-o", "model", *QUICK)
    assert (done.code, done.out) == (0, "")
    first, *middle, model = done.err.splitlines()
    assert first.startswith("GPT2LMHeadModel, 0.01 M parameters, float32 on cpu; 3 texts, a line each: 60 bytes")
    assert "the loss cannot go below 0." in first
    assert re.match(r"step 10  50%  loss \d\.\d{4} \(\d\.\d{3} bits/byte\)  [\d,]+ tok/s  00:0\d left", middle[0])
    assert re.match(r"20 steps, [\d,]+ tokens in 00:0\d", middle[-1])
    assert model == "the model is in model; genlm generate -m model"


def test_quiet_says_nothing() -> None:
    done = call("train", "likes.txt", "-o", "model", *QUICK, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_the_folder_is_a_model_with_its_card_its_log_and_its_curve() -> None:
    call("train", "story.txt", "-o", "model", "--valid", "valid.txt", *QUICK)
    assert {path.name for path in Path("model").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("training.json", "log.jsonl", "loss.png", "README.md"),
    }
    assert {path.stat().st_mode & 0o777 for path in Path("model").iterdir()} == {0o666 & ~umask()}
    result = json.loads(Path("model/log.jsonl").read_text().splitlines()[-1])
    card = Path("model/README.md").read_text()
    assert f"| held-out bits per byte | {result['valid_bits_per_byte']:.3f}, windows" in card
    assert "| training text | 15,600 bytes, " in card
    assert Path("model/loss.png").read_bytes().startswith(b"\x89PNG")


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_card_of_ones_own_has_the_figures_in_their_place() -> None:
    Path("card.md").write_text("# mine\n\n{figures}\n\nthe end\n")
    call("train", "likes.txt", "-o", "model", *QUICK, "--card", "card.md")
    card = Path("model/README.md").read_text()
    assert card.startswith("# mine\n\n| | |\n|---|---|\n| architecture |")
    assert card.endswith("in float32 |\n\nthe end\n")


def test_the_numbers_asked_for_are_those_of_the_model() -> None:
    call("train", "likes.txt", "-o", "model", *QUICK, "--n-head", "4", "--vocab-size", "260", "--dropout", "0.2")
    config = json.loads(Path("model/config.json").read_text())
    assert {name: config[name] for name in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")} == {
        **{"n_layer": 1, "n_embd": 16, "n_head": 4, "n_positions": 16},
        **{"vocab_size": 260},
    }
    assert json.loads(Path("model/training.json").read_text())["recipe"]["dropout"] == 0.2


def test_the_tokenizer_of_another_model_serves(tiny: Path) -> None:
    call("train", "likes.txt", "-o", "model", *QUICK, "--tokenizer", str(tiny))
    ours, theirs = (json.loads((folder / "tokenizer.json").read_text()) for folder in (Path("model"), tiny))
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]


# Bad input: an error before any work.


def write(name: str, contents: bytes) -> str:
    Path(name).write_bytes(contents)
    return name


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["story.txt"], "no place for the model", 2),
        (["-o", "model"], "no corpus", 2),
        (["gone.txt", "-o", "model"], "no such file or folder: .*gone.txt", 1),
        (["empty.txt", "-o", "model"], "the corpus is empty", 1),
        (["binary.txt", "-o", "model"], r"binary\.txt: binary, not text: byte 3 is zero", 1),
        (["latin.txt", "-o", "model"], r"latin\.txt: not valid UTF-8 at byte 3", 1),
        (["story.txt", "-o", "model", "--valid", "story.txt"], "story.txt: held out, and trained on, too", 1),
        (["story.txt", "-o", "model", "--valid", "copy.txt"], "copy.txt: held out, and the same as", 1),
        (["story.txt", "-o", "model", "--n-embd", "32", "--n-head", "5"], "n_embd=32 cannot be divided among", 2),
        (["story.txt", "-o", "model", "--preset", "huge"], "no preset 'huge'", 2),
        (["story.txt", "-o", "model", "--card", "story.txt"], "story.txt has no place for the figures", 1),
        (["story.txt", "-o", "."], "is there already, and holds no run", 1),
        (["story.txt", "-o", "story.txt"], "is a file, not a folder", 1),
        (["--resume", "-o", "model"], "holds no training.json", 1),
        (["--resume", "-o", "model", "--seed", "3"], "takes no other options", 2),
        (["--resume", "--overwrite", "-o", "model"], "at once: which is it", 2),
    ],
)
def test_bad_input_is_told_before_any_work(arguments: list[str], message: str, code: int) -> None:
    write("empty.txt", b"")
    write("binary.txt", b"abc\0")
    write("latin.txt", b"caf\xe9")
    write("copy.txt", STORY.encode())
    before = sorted(Path().iterdir())
    done = call("train", *arguments)
    assert (done.code, done.out) == (code, "")
    assert re.search(message, done.error())
    assert sorted(Path().iterdir()) == before


# Cut off, and gone on.

LONG = ("--n-layer", "1", "--n-embd", "16", "--n-positions", "16", "--batch-size", "2", "--save-every", "15")
SPEC = ("story.txt", "--max-steps", "4000", "--dropout", "0.1", "--device", "cpu", "--dtype", "float32", *LONG)


@needs_unix("no SIGKILL")
def test_killed_and_resumed_it_comes_to_the_same_weights() -> None:
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


@pytest.mark.parametrize("lost", ["genlm.cli.train.draw_curve", "genlm.cli.train.model_card"])
def test_killed_before_the_card_it_is_made_by_resume(lost: str) -> None:
    spec = ("train", "likes.txt", *QUICK, "-q")
    assert call(*spec, "-o", "whole").code == 0
    with mock.patch(lost, side_effect=SystemExit(137)):
        assert call(*spec, "-o", "cut").code == 137
    before = Path("cut/model.safetensors").stat()
    assert call("train", "--resume", "-o", "cut", "-q").code == 0
    assert Path("cut/model.safetensors").stat() == before, "nothing is trained again"
    assert sorted(path.name for path in Path("cut").iterdir()) == sorted(path.name for path in Path("whole").iterdir())
    assert Path("cut/README.md").read_text().startswith("---\nlibrary_name")
    assert call("train", "--resume", "-o", "cut").error() == "the run in cut is finished"


def test_two_runs_in_one_folder_at_once_are_one_too_many() -> None:
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


def test_ctrl_c_saves_and_says_how_to_go_on() -> None:
    with Terminal("train", *SPEC, "-o", "cut") as terminal:
        terminal.wait_for("tok/s")
        terminal.press(b"\x03")
        assert terminal.end() == 130
    shown = terminal.shown.decode()
    step = int(re.search(r"interrupted at step (\d+); genlm train --resume -o cut goes on from there", shown)[1])  # type: ignore[index]
    assert "Traceback" not in shown
    done = call("train", *SPEC, "-o", "cut")
    assert done.hint().startswith("--resume goes on with the run in it")
    from genlm.tasks.train.checkpoint import load

    assert load(Path("cut"))[0].step == step


def test_a_signal_to_end_saves_too() -> None:
    show = TrainView.show

    def told(view: TrainView, record: TrainReport | TrainResult) -> None:
        show(view, record)
        if record.step == 10:
            signal.raise_signal(signal.SIGTERM)

    with mock.patch.object(TrainView, "show", told):
        done = call("train", "likes.txt", *QUICK, "-o", "cut")
    assert done.code == 143
    assert done.err.splitlines()[-1] == "interrupted at step 11; genlm train --resume -o cut goes on from there"
    assert call("train", "--resume", "-o", "cut", "-q").code == 0
    assert call("train", "likes.txt", *QUICK, "-o", "whole", "-q").code == 0
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_two_signals_to_end_do_so_at_once() -> None:
    with graceful_interrupt() as asked:
        signal.raise_signal(signal.SIGINT)
        assert isinstance(asked.ending, KeyboardInterrupt)
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with graceful_interrupt() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_whole_command_with_resume_goes_on_too_if_it_is_the_same() -> None:
    assert call("train", "likes.txt", "-o", "model", *QUICK, "-q").code == 0
    assert call("train", "likes.txt", "-o", "model", *QUICK, "--resume").error() == "the run in model is finished"


# What is shown.

FACTS = TrainFacts(
    *(None, "GPT2LMHeadModel", 8_900_000, 6, 320, 5, 512, "bpe", 4096, 63, 63, 21_500_000, 5_800_000, "file"),
    *(2, 724_699, None, {"dtype": "bfloat16"}, "float16", "cpu"),
)
REPORT = TrainReport(
    **{"step": 1200, "epoch": 1, "tokens": 4_915_200, "seconds": 1800.0, "progress": 0.25, "loss": 3.91234},
    **{"bits_per_byte": 1.52, "learning_rate": 1e-3, "tokens_per_s": 3236.5},  # type: ignore[arg-type]
)
EVALUATED = TrainReport(**{**vars(REPORT), "valid_loss": 3.8, "valid_bits_per_byte": 1.47, "sample": "a\x1b[2J king\n"})


def test_a_line_alone_says_all() -> None:
    assert report_line(REPORT, alone=True) == (
        "step 1,200  25%  loss 3.9123 (1.520 bits/byte)  3,236 tok/s  1:30:00 left"
    )
    assert report_line(EVALUATED, alone=True) == (
        "step 1,200  25%  loss 3.9123  valid 3.8000 (1.470 bits/byte)  3,236 tok/s  1:30:00 left"
    )


def test_what_stands_beside_the_bar_fits_a_terminal() -> None:
    numbers = bar_numbers(REPORT, EVALUATED)
    assert numbers == "loss 3.912 valid 3.800 1.47 bits/byte 3,236 tok/s 1:30:00 left"
    assert len(numbers) + len("━" * 10 + " 100% ") <= 80


def test_a_sample_does_not_act_on_the_terminal() -> None:
    screen = FakeTerminal()
    with mock.patch.object(sys, "stderr", screen), TrainView(FACTS) as view:
        view.show(EVALUATED)
        view.show(TrainResult(4800, 19_660_800, 7000.0, 4400, True, 3.7, 1.43))
    shown = screen.getvalue()
    assert "a␛[2J king" in shown
    assert "\x1b[2J" not in shown
    assert "4,800 steps, 19,660,800 tokens in 1:56:40, ended early" in shown
    assert "kept step 4,400: on all the held-out text loss 3.7000 (1.4300 bits/byte)" in shown


def test_without_a_terminal_lines_are_few() -> None:
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream), TrainView(FACTS) as view:
        for step in range(1, 1001):
            view.show(TrainReport(**{**vars(REPORT), "step": step, "progress": step / 1000}))
    assert len(stream.getvalue().splitlines()) == 1 + 20 + 1
