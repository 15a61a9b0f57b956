"""`genlm generate` in a terminal: its screen, Ctrl-C, and texts that must not control the terminal."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals exist on Unix only", allow_module_level=True)

from rich.cells import cell_len
from support.driving import Shown, Terminal, call, call_in_terminal, save_endless
from support.gpt2 import save_gpt2
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

STYLE = rb"\x1b\[[0-9;]*m"
# From hiding the cursor to erasing the line.
SPINNER = re.compile(r"\x1b\[\?25l.*?\x1b\[\?25h\r\x1b\[1A\x1b\[2K", re.S)
# Characters that control a terminal.
CONTROLS = "\x1b\x07\x08\r\x0c\x7f\x9b\u202e"


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_endless(tmp_path_factory.mktemp("models") / "endless")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are control characters and pieces of Rich markup."""
    tokens = [*CONTROLS, "[bold]", "[/]", "a"]
    no_end = {"eos_token_id": None, "bos_token_id": None}
    folder = tmp_path_factory.mktemp("models") / "nasty"
    save_gpt2(folder, vocab_size=len(tokens), n_positions=256, **no_end)
    tokenizer = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def text_shown(terminal: Terminal | Shown) -> str:
    """Return the text left on the screen, without styles and the spinner."""
    shown = re.sub(STYLE, b"", terminal.shown).decode().replace("\r\n", "\n")
    return SPINNER.sub("", shown)


def test_control_characters_of_prompt_and_model_are_made_visible(nasty: Path) -> None:
    prompt = "a\x1b]0;title\x07[bold]b[/bold][link=http://x]c[/link]\x9b31m\u202e:smile:"
    draw = ("-s", "sample", "--seed", "1", "--max-new-tokens", "40")
    terminal = call_in_terminal("generate", "-m", nasty, prompt, *draw, "--quiet")
    assert terminal.code == 0
    prompt_line, text = re.fullmatch(rb"\x1b\[1m(.*)\x1b\[0m(.*)\r\n", terminal.shown, re.S).groups()  # type: ignore[union-attr]
    assert prompt_line.decode() == ("a␛]0;title␇[bold]b[/bold][link=http://x]c[/link]<U+009B>31m<U+202E>:smile:")
    pictures = {"␛", "␇", "␈", "␍", "␌", "␡", "<U+009B>", "<U+202E>", "[bold]", "[/]"}
    assert {picture for picture in pictures if picture in text.decode()} == pictures
    assert not set(CONTROLS) & set(text.decode())


def test_samples_have_headings_and_the_summary_is_dim(tiny: Path) -> None:
    arguments = ("-s", "top-k:top_k=3", "--seed", "1", "-n", "2", "--max-new-tokens", "4", "--stop", "\n")
    with Terminal("generate", "-m", tiny, "Once", *arguments, columns=40) as terminal:
        assert terminal.end() == 0
    lines = text_shown(terminal).splitlines()
    assert lines[0] == "1 of 2 " + "─" * 33
    assert lines[1].startswith("Once")
    assert lines[2] == "2 of 2 " + "─" * 33
    assert lines[3].startswith("Once")
    assert lines[4].endswith("/s)")
    assert len(lines) == 5
    assert f"\x1b[2m{tiny} (float32, cpu)".encode() in terminal.shown


def test_a_dumb_terminal_gets_plain_text(tiny: Path) -> None:
    arguments = ("-s", "greedy", "--max-new-tokens", "4")
    terminal = call_in_terminal("generate", "-m", tiny, "Once", *arguments, env={"TERM": "dumb"})
    assert terminal.code == 0
    assert b"\x1b" not in terminal.shown
    assert terminal.shown.startswith(b"Once")


def test_a_spinner_is_shown_during_beam_search_and_erased(tiny: Path) -> None:
    arguments = ("-s", "beam:num_beams=3", "--max-new-tokens", "4")
    terminal = call_in_terminal("generate", "-m", tiny, "Once", *arguments)
    assert terminal.code == 0
    assert b"generating" in terminal.shown
    text, summary = text_shown(terminal).splitlines()
    assert text.startswith("Once")
    assert "beam:num_beams=3" in summary


def test_json_goes_to_the_pipe_and_progress_to_the_terminal(tiny: Path) -> None:
    arguments = ("--format", "json", "--max-new-tokens", "4", "-n", "3")
    terminal = call_in_terminal("generate", "-m", tiny, "Once", *arguments, pipe=True)
    assert terminal.code == 0
    record = json.loads(terminal.piped)
    assert [completion["index"] for completion in record["completions"]] == [0, 1, 2]
    assert b"generating: 3 of 3" in terminal.shown
    assert text_shown(terminal).count("\n") == 1


def test_ctrl_c_keeps_the_text_ends_the_line_and_shows_the_seed(endless: Path) -> None:
    with Terminal("generate", "-m", endless, "Once", "--max-new-tokens", "19000") as terminal:
        terminal.wait_for("Once")
        terminal.press(b"\x03")
        assert terminal.end() == 130
    shown = text_shown(terminal)
    assert shown.startswith("Once")
    assert re.search(r"\^C\ninterrupted; --seed \d+ generates the same text again\n$", shown)
    assert "Traceback" not in shown
    assert "error" not in shown


def test_ctrl_c_while_the_model_loads(tiny: Path) -> None:
    with Terminal("generate", "-m", tiny, "Once", columns=30) as terminal:
        terminal.wait_for("loading")
        terminal.press(b"\x03")
        # Python may die of the signal if an import was interrupted; a shell shows 130 for that too.
        assert terminal.end() in (130, -2)
    assert "Traceback" not in text_shown(terminal)
    # The cursor is visible again.
    assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l")


def test_a_missing_prompt_is_an_error_on_a_terminal() -> None:
    with Terminal("generate") as terminal:
        assert terminal.end() == 2
    assert text_shown(terminal) == 'error: no prompt\nhint: give one, such as "Once upon a time", or pipe one in\n'


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "Once", "-s", "top-p:top_q=1"),
        ("generate", "Once", "-s", "nucleus"),
        ("generate", "Once", "-m", "fable", "--max-new-tokens", "600"),
        ("generate", "a " * 600, "-m", "fable"),
        ("generate", "Once", "-s", "@mine"),
    ],
)
def test_errors_and_hints_break_between_words(arguments: tuple[str, ...]) -> None:
    lines = text_shown(call_in_terminal(*arguments)).splitlines()
    whole = call(*arguments).err
    assert all(cell_len(line) <= 80 for line in lines)
    assert [word for line in lines for word in line.split()] == whole.split()


def test_control_characters_of_an_error_are_made_visible() -> None:
    with Terminal("generate", "Once", "-s", "top-p:[bold]\x1b[31m=1", columns=400, env={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 2
    error, spec, marks, hint = text_shown(terminal).splitlines()
    assert error.startswith("error: no field '[bold]")
    assert spec == "  top-p:[bold]␛[31m=1"
    assert marks == "        ^^^^^^^^^^^"
    assert hint.startswith("hint: ")
    assert b"\x1b[31m" not in terminal.shown
