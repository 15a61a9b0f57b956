"""`genlm train`: its results, output and errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.driving import call, call_in_terminal
from support.systems import needs_unix
from support.training import QUICK, STORY

pytestmark = pytest.mark.usefixtures("corpora")


def test_a_short_text_is_memorized() -> None:
    Path("short.txt").write_text("Hello, little world!")
    done = call("train", "short.txt", "-o", "model", "--device", "cpu")
    assert (done.code, done.out) == (0, "")
    assert call("generate", "Hello", "-m", "model", "-s", "greedy", "-q").out.strip() == "Hello, little world!"


def test_progress_goes_to_stderr_and_stdout_stays_empty() -> None:
    done = call("train", "likes.txt", "-o", "model", *QUICK)
    assert (done.code, done.out) == (0, "")
    first, *middle, model = done.err.splitlines()
    assert first.startswith("GPT2LMHeadModel, 0.01 M parameters, float32 on cpu; 3 texts, a line each: 60 bytes")
    assert "the loss cannot go below 0." in first
    assert re.match(r"step 10  50%  loss \d\.\d{4} \(\d\.\d{3} bits/byte\)  [\d,]+ tok/s  00:0\d left", middle[0])
    assert re.match(r"20 steps, [\d,]+ tokens in 00:0\d", middle[-1])
    assert model == "the model is in model; to use it: genlm generate -m model"


def test_quiet_writes_nothing() -> None:
    done = call("train", "likes.txt", "-o", "model", *QUICK, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_the_folder_has_the_model_its_card_log_and_curve() -> None:
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


def test_the_results_are_inserted_in_your_own_card() -> None:
    Path("card.md").write_text("# mine\n\n{figures}\n\nthe end\n")
    call("train", "likes.txt", "-o", "model", *QUICK, "--card", "card.md")
    card = Path("model/README.md").read_text()
    assert card.startswith("# mine\n\n| | |\n|---|---|\n| architecture |")
    assert card.endswith("in float32 |\n\nthe end\n")


def test_options_set_the_shape_of_the_model() -> None:
    call("train", "likes.txt", "-o", "model", *QUICK, "--n-head", "4", "--vocab-size", "260", "--dropout", "0.2")
    config = json.loads(Path("model/config.json").read_text())
    shape = {"n_layer": 1, "n_embd": 16, "n_head": 4, "n_positions": 16, "vocab_size": 260}
    assert {name: config[name] for name in shape} == shape
    assert json.loads(Path("model/training.json").read_text())["recipe"]["dropout"] == 0.2


def test_the_tokenizer_of_another_model_can_be_used(tiny: Path) -> None:
    call("train", "likes.txt", "-o", "model", *QUICK, "--tokenizer", str(tiny))
    ours, theirs = (json.loads((folder / "tokenizer.json").read_text()) for folder in (Path("model"), tiny))
    assert ours["model"]["vocab"] == theirs["model"]["vocab"]


# On a terminal.


@needs_unix("no pseudo-terminal")
def test_long_notices_break_at_spaces() -> None:
    shown = call_in_terminal("train", "likes.txt", "-o", "model", *QUICK).shown.decode()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    first = shown[shown.index("GPT2LMHeadModel") : shown.index("the loss cannot")]
    assert max(len(line.strip()) for line in first.splitlines()) <= 80
    assert re.search(r"; 3 texts, a line each: 60\s+bytes, \d+ tokens;", first)


@needs_unix("no pseudo-terminal")
def test_long_errors_break_at_spaces() -> None:
    name = "a-model-that-is-neither-a-folder-nor-in-the-cache"
    shown = call_in_terminal("train", "likes.txt", "-o", "model", "--base", name).shown.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    error = text[text.index("error:") :]
    assert max(len(line.strip()) for line in error.splitlines()) <= 80
    assert re.match(rf"error: {name} is not in the cache,\s+and HF_HUB_OFFLINE is set\s+hint: ", error)


# transformers logs a warning in each step, as it does for arguments that it deprecates.
WARNING = """
import sys
from transformers import GPT2LMHeadModel
from transformers.utils import logging
forward = GPT2LMHeadModel.forward
def forward_with_warning(*arguments, **options):
    logging.get_logger("transformers.models.gpt2").warning("this argument is deprecated")
    return forward(*arguments, **options)
GPT2LMHeadModel.forward = forward_with_warning
from genlm.cli.main import main
main(sys.argv[1:])
"""


def test_warnings_of_transformers_do_not_reach_the_progress() -> None:
    command = [sys.executable, "-c", WARNING, "train", "likes.txt", "-o", "model", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("GPT2LMHeadModel, ")
    assert "deprecated" not in done.stderr


# Wrong input.


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--batch-size", "2000000000"), r"a step of 1 x 2,000,000,000 rows needs at least [\d,.]+ GB", "batch_size"),
        (("--accumulate", "2000000000"), r"a step of 2,000,000,000 x 16 rows needs at least [\d,.]+ GB", "accumulate"),
        (("--n-layer", "100000000"), "not enough disk space: the run needs", "a smaller model"),
        (("--vocab-size", "2000000000"), "not enough disk space: the run needs", "a smaller model"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_anything_is_allocated(
    options: tuple[str, ...], message: str, hint: str
) -> None:
    done = call("train", "story.txt", "-o", "model", *QUICK, *options)
    assert done.code == 1
    assert re.search(message, done.error())
    assert hint in done.hint()
    assert not Path("model").exists()


def test_a_model_too_large_for_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlm.tasks.train.model.free_bytes", lambda device: 10**4)
    done = call("train", "story.txt", "-o", "model", *QUICK)
    assert re.match(r"training [\d,]+ parameters needs at least 0\.0 GB of memory, and 0\.0 GB are free", done.error())


def test_a_missing_base_model_has_a_hint_without_options_of_other_commands() -> None:
    done = call("train", "likes.txt", "-o", "model", "--base", "nomodel")
    assert done.error() == "nomodel is not in the cache, and HF_HUB_OFFLINE is set"
    assert done.hint() == "HF_ENDPOINT selects another Hub; the bundled model fable needs no download"


def test_a_pickled_base_model_has_a_hint_without_options_of_other_commands(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    done = call("train", "likes.txt", "-o", "model", "--base", copied)
    assert "has only pickled weights" in done.error()
    assert done.hint() == "training loads safetensors only"


def write(name: str, contents: bytes) -> str:
    Path(name).write_bytes(contents)
    return name


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["story.txt"], "missing --output DIR", 2),
        (["-o", "model"], "missing CORPUS", 2),
        (["gone.txt", "-o", "model"], "no such file or folder: .*gone.txt", 1),
        (["empty.txt", "-o", "model"], "the corpus is empty", 1),
        (["binary.txt", "-o", "model"], r"binary\.txt: binary, not text \(byte 3 is zero\)", 1),
        (["latin.txt", "-o", "model"], r"latin\.txt: not valid UTF-8 at byte 3", 1),
        (["story.txt", "-o", "model", "--valid", "story.txt"], "story.txt: both held out and trained on", 1),
        (["story.txt", "-o", "model", "--valid", "copy.txt"], "copy.txt: held out, but has the same contents as", 1),
        (["story.txt", "-o", "model", "--n-embd", "32", "--n-head", "5"], "n_embd=32 cannot be divided among", 2),
        (["story.txt", "-o", "model", "--size", "huge"], "no size 'huge'", 2),
        (["story.txt", "-o", "model", "--card", "story.txt"], r"story\.txt does not contain \{figures\}", 1),
        (["story.txt", "-o", "."], "already exists and holds no run", 1),
        (["story.txt", "-o", "story.txt"], "is a file, not a folder", 1),
        (["--resume", "-o", "model"], "holds no training.json", 1),
        (["--resume", "-o", "model", "--seed", "3"], "takes no other options", 2),
        (["--resume", "--overwrite", "-o", "model"], "--resume and --overwrite cannot be combined", 2),
    ],
)
def test_wrong_input_is_an_error_before_any_work(arguments: list[str], message: str, code: int) -> None:
    write("empty.txt", b"")
    write("binary.txt", b"abc\0")
    write("latin.txt", b"caf\xe9")
    write("copy.txt", STORY.encode())
    before = sorted(Path().iterdir())
    done = call("train", *arguments)
    assert (done.code, done.out) == (code, "")
    assert re.search(message, done.error())
    assert sorted(Path().iterdir()) == before
