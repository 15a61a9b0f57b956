"""Views: text for terminals and pipes, JSON, summaries, the spinner."""

from __future__ import annotations

import io
import json
import re
import unicodedata

import pytest
from support.driving import FakeTerminal

from genlm.decoding.completion import Completion, Piece
from genlm.decoding.strategy import Strategy
from genlm.model.info import ModelInfo
from genlm.records.generation import Generation, Timing
from genlm.records.serialize import escaped
from genlm.views.generation import TextView, as_json, summary
from genlm.views.progress import Spinner
from genlm.views.terminal import Writer, notice, one_line, underlined, visible

# A window title, a carriage return, a backspace, DEL, an 8-bit sequence, reversed text, a line separator, markup.
NASTY = "\x1b]0;title\x07 a\rb \x08 \x7f \x9b31m \u202eabc \u2028 [bold]not bold[/bold] [link=http://x]y[/link] :smile:"


def generation(*texts: str, prompt: str = "Once", strategy: str = "top-p:top_p=0.9") -> Generation:
    return Generation(
        model=ModelInfo("tiny", "local", None, 1234, "float32", "cpu"),
        strategy=Strategy.parse(strategy),
        seed=7,
        max_new_tokens=50,
        prompt=prompt,
        prompt_token_ids=(1, 2),
        completions=tuple(Completion(index, text, (3, 4), "length", -2.5) for index, text in enumerate(texts)),
        timing=Timing(0.1, 0.2, 0.3, 8.0),
    )


def ended(index: int, text: str = "") -> Completion:
    return Completion(index, text, (3,), "length", -1.0)


class TestVisible:
    def test_plain_text_is_unchanged(self) -> None:
        assert visible("naïve\tcafé — 狐 🦊\n[bold]") == "naïve\tcafé — 狐 🦊\n[bold]"

    def test_controls_are_shown_by_their_picture_or_code(self) -> None:
        assert visible("\x1b[31m\x07\r\x00\x7f") == "␛[31m␇␍␀␡"
        assert visible("\x9b\u202e\u2028\ud800") == "<U+009B><U+202E><U+2028><U+D800>"

    def test_nothing_that_a_terminal_acts_on_is_left(self) -> None:
        """Controls, surrogates, line and paragraph separators, and characters that change the reading direction."""
        turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        marks = "\u061c\u200e\u200f"
        characters = map(chr, range(0x110000))
        acting = {
            c
            for c in characters
            if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in turning
        }
        changed = {chr(code) for code in range(0x110000) if visible(chr(code)) != chr(code)}
        assert changed == (acting | set(marks)) - set("\n\t")

    def test_one_line_joins_lines_with_spaces(self) -> None:
        assert one_line("a\nerror: b\r\nc\x1b") == "a error: b␍ c␛"

    def test_json_has_escapes_for_the_same_characters(self) -> None:
        written = escaped(json.dumps([NASTY], ensure_ascii=False))
        assert visible(written) == written
        assert json.loads(written) == [NASTY]


class TestUnderlined:
    def test_the_part_has_carets_below(self) -> None:
        assert underlined("top-p:top_q=1", 6, 13) == "top-p:top_q=1\n      ^^^^^^^"

    def test_carets_count_columns_not_characters(self) -> None:
        assert underlined("狐:\x9b=1", 2, 5) == "狐:<U+009B>=1\n   ^^^^^^^^^^"

    def test_a_line_break_in_the_spec_starts_no_new_line(self) -> None:
        assert underlined("a\nb", 2, 3).count("\n") == 1

    def test_an_empty_part_has_one_caret(self) -> None:
        assert underlined("", 0, 0) == "\n^"


class TestWriter:
    def test_a_pipe_gets_the_text_unchanged(self) -> None:
        stream = io.StringIO(newline="")
        Writer(stream).write(NASTY, style="bold")
        assert stream.getvalue() == NASTY

    def test_every_piece_is_flushed(self) -> None:
        pipe = io.BytesIO()
        writer = Writer(io.TextIOWrapper(pipe, encoding="utf-8"))
        for text in ("né", "狐"):
            writer.write(text)
            assert pipe.getvalue().decode().endswith(text)

    def test_a_terminal_gets_controls_visible_and_markup_literal(self) -> None:
        stream = FakeTerminal()
        Writer(stream).write(NASTY)
        assert stream.getvalue() == visible(NASTY)

    def test_a_style_is_the_only_control_sequence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        stream = FakeTerminal()
        Writer(stream).write(NASTY, style="bold")
        assert stream.getvalue() == f"\x1b[1m{visible(NASTY)}\x1b[0m"

    def test_a_dumb_terminal_gets_no_style(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        stream = FakeTerminal()
        Writer(stream).write("Once", style="bold")
        assert stream.getvalue() == "Once"

    def test_a_notice_that_cannot_be_written_is_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("sys.stderr", Full())
        notice("unheard")


class TestTextView:
    def test_one_sample_is_shown_piece_by_piece_after_its_prompt(self) -> None:
        stream = io.StringIO()
        view = TextView(stream, "Once", 1, echo=True)
        assert stream.getvalue() == ""
        view.show(Piece(0, " upon"))
        assert stream.getvalue() == "Once upon"
        view.show(Piece(0, " a"))
        view.show(ended(0))
        assert stream.getvalue() == "Once upon a\n"

    def test_without_echo_the_prompt_is_left_out(self) -> None:
        stream = io.StringIO()
        view = TextView(stream, "Once", 1, echo=False)
        view.show(Piece(0, " upon"))
        view.show(ended(0))
        assert stream.getvalue() == " upon\n"

    def test_an_empty_completion_is_shown_as_its_prompt(self) -> None:
        stream = io.StringIO()
        TextView(stream, "Once", 1, echo=True).show(ended(0))
        assert stream.getvalue() == "Once\n"

    def test_samples_come_in_order_with_plain_separators(self) -> None:
        stream = io.StringIO()
        view = TextView(stream, "P", 3, echo=True)
        for event in [Piece(2, "c"), Piece(1, "b1"), Piece(0, "a"), ended(2), Piece(1, "b2"), ended(0)]:
            view.show(event)
        assert stream.getvalue() == "Pa\n---\nPb1b2"
        view.show(ended(1))
        assert stream.getvalue() == "Pa\n---\nPb1b2\n---\nPc\n"

    @pytest.mark.parametrize("columns", [12, 40, 80])
    def test_a_terminal_shows_headings_as_wide_as_it_is(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        stream = FakeTerminal()
        view = TextView(stream, "P", 2, echo=True)
        for event in [Piece(0, "a"), ended(0), ended(1)]:
            view.show(event)
        first, a, second, b = re.sub("\x1b\\[[0-9]*m", "", stream.getvalue()).splitlines()
        assert (a, b) == ("Pa", "P")
        assert re.fullmatch("1 of 2 ─+", first)
        assert re.fullmatch("2 of 2 ─+", second)
        assert len(first) == len(second) == columns

    def test_ctrl_c_ends_the_line_of_a_file_once(self) -> None:
        stream = io.StringIO()
        view = TextView(stream, "Once", 1, echo=True)
        view.interrupt()
        assert stream.getvalue() == ""
        view.show(Piece(0, " upon"))
        view.interrupt()
        view.interrupt()
        assert stream.getvalue() == "Once upon\n"


class TestJson:
    def test_the_object_has_exactly_these_keys(self) -> None:
        record = json.loads(as_json(generation("a")))
        assert list(record) == [
            *("model", "engine", "strategy", "seed", "max_new_tokens"),
            *("num_return_sequences", "stop", "overflow", "deterministic"),
            *("prompt", "prompt_token_ids", "completions", "timing", "made_by"),
        ]
        assert record["model"] == {
            "name": "tiny",
            "source": "local",
            "revision": None,
            "parameters": 1234,
            "dtype": "float32",
            "device": "cpu",
            "fingerprint": None,
        }
        assert list(record["strategy"]) == ["name", "kind", "spec", "fields"]
        assert record["completions"] == [
            {"index": 0, "text": "a", "token_ids": [3, 4], "finish_reason": "length", "logprob": -2.5}
        ]
        assert record["timing"] == {"load_s": 0.1, "prefill_s": 0.2, "decode_s": 0.3, "tokens_per_s": 8.0}

    def test_control_characters_are_escaped_and_kept(self) -> None:
        text = NASTY + '"\\ \ud800'
        written = as_json(generation(text, prompt=text))
        record = json.loads(written)
        assert record["prompt"] == record["completions"][0]["text"] == text
        assert visible(written) == written
        assert written.encode("utf-8").endswith(b"}\n")


class TestSummary:
    def test_it_has_model_strategy_seed_tokens_and_speed(self) -> None:
        assert summary(generation("a", "b")) == (
            "tiny (float32, cpu)  top-p:top_p=0.9  seed 7  4 tokens in 0.50 s (8/s)"
        )

    def test_it_has_no_seed_if_the_strategy_does_not_sample(self) -> None:
        assert "seed" not in summary(generation("a", strategy="greedy"))


class TestSpinner:
    def test_it_writes_nothing_to_a_pipe_or_if_disabled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pipe, terminal = io.StringIO(), FakeTerminal()
        for stream, wanted in [(pipe, True), (terminal, False)]:
            monkeypatch.setattr("sys.stderr", stream)
            with Spinner(enabled=wanted) as spinner:
                spinner.say("loading")
            assert stream.getvalue() == ""

    def test_its_line_is_erased_when_it_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        terminal = FakeTerminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with Spinner() as spinner:
            spinner.say("loading \x1b[31m[bold]x")
            spinner.stop()
            shown = terminal.getvalue()
            spinner.stop()
        assert "loading ␛[31m[bold]x" in shown
        # The line is erased and the cursor shown again.
        assert shown.endswith("\x1b[2K")
        assert "\x1b[?25h" in shown
        assert terminal.getvalue() == shown
