"""What goes wrong is one line, where it helps a hint, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.driving import call, genlm
from support.systems import needs_unix

import genlm as package
from genlm.cli.main import run
from genlm.cli.signals import end_tidily_when_told, graceful_interrupt, insistent_interrupts
from genlm.errors import GenlmError

PRESETS = Path(__file__).parents[2] / "prompts" / "strategies.toml"


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "error", "hint"),
        [
            (["nope"], "No such command 'nope'.", "genlm --help"),
            (["--nope"], "No such option: --nope", "genlm --help"),
            (["generate", "--max-new-token"], "--max-new-token", "genlm generate --help"),
            (["generate", "x", "y"], "unexpected extra argument", "genlm generate --help"),
            (["generate", "x", "--top-k", "many"], "'--top-k'", "genlm generate --help"),
            (["generate", "x", "--top-k", "1.5"], "'--top-k'", "genlm generate --help"),
            (["generate", "x", "--seed", "1e3"], "'--seed'", "genlm generate --help"),
            (["generate", "x", "--format", "xml"], "'--format'", "genlm generate --help"),
            (["generate", "x", "--device", "abacus"], "'--device'", "genlm generate --help"),
            (["generate", "x", "--overflow", "wrap"], "'--overflow'", "genlm generate --help"),
            (["generate", "x", "--model"], "'--model' requires an argument", "genlm --help"),
        ],
    )
    def test_what_the_parser_refuses(self, arguments: list[str], error: str, hint: str) -> None:
        done = call(*arguments)
        assert (done.code, done.out) == (2, "")
        assert error in done.error()
        assert done.hint() == hint

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--max-new-tokens", "0"], "max_new_tokens must be at least 1, not 0"),
            (["--max-new-tokens", "-5"], "max_new_tokens must be at least 1, not -5"),
            (["-n", "0"], "num_return_sequences must be at least 1, not 0"),
            (["-n", "-1"], "num_return_sequences must be at least 1, not -1"),
            (["--stop", ""], "a stop text must not be empty"),
            (["--top-k", "0"], "top_k must be a whole number at least 1, not 0"),
            (["--top-p", "0"], "top_p must be a number greater than 0 and at most 1, not 0.0"),
            (["--top-p", "1.1"], "top_p must be a number greater than 0 and at most 1, not 1.1"),
            (["--temperature", "-1"], "temperature must be a number at least 0, not -1.0"),
            (["--temperature", "nan"], "temperature must be a number at least 0, not nan"),
            (["--temperature", "inf"], "temperature must be a number at least 0, not inf"),
            (["--repetition-penalty", "0"], "repetition_penalty must be a number greater than 0, not 0.0"),
            (["--num-beams", "1"], "num_beams must be a whole number at least 2, not 1"),
            (["--num-beams", "3", "-n", "4"], "num_return_sequences=4 is more than num_beams=3"),
            (["-s", "greedy", "-n", "2"], "greedy has one completion, not 2"),
            (["--temperature", "0", "-n", "2"], "greedy has one completion, not 2"),
            (["--num-beams", "3", "--top-k", "5"], "field 'top_k' does not apply to kind 'beam'"),
            (["-s", "greedy", "--top-p", "0.9"], "field 'top_p' does not apply to kind 'greedy'"),
            (["-s", "greedy", "--temperature", "0.9"], "field 'temperature' does not apply to kind 'greedy'"),
            (["-s", "top-p:top_p=0.5", "--top-p", "0.5"], "top_p is given twice: in the spec 'top-p:top_p=0.5' and"),
            (["-s", "@storyteller"], "-s @storyteller needs a file of presets"),
            (["-s", "@other", "--presets", str(PRESETS)], "no preset 'other' in"),
            (["--presets", str(PRESETS)], "--presets is given, but no preset is used"),
        ],
    )
    def test_requests_that_make_no_sense(self, options: list[str], error: str) -> None:
        done = call("generate", "-m", "/no/model", "Once", *options)
        assert (done.code, done.out) == (2, "")
        assert error in done.error()

    @pytest.mark.parametrize(
        ("spec", "error", "place"),
        [
            ("topp", "no strategy kind 'topp'", "topp"),
            ("", "a strategy starts with its kind", ""),
            ("top-p:top_q=1", "no field 'top_q' in any strategy", "top_q"),
            ("top-p:num_beams=4", "field 'num_beams' does not apply to kind 'top-p'", "num_beams"),
            ("top-p:top_p=0.9,top_k=x", "top_k must be a whole number", "x"),
            ("top-p:top_p=2", "top_p must be a number greater than 0 and at most 1", "2"),
            ("top-p:top_p", "expected FIELD=VALUE", "top_p"),
            ("top-k:top_k=5,top_k=6", "field 'top_k' is given twice", "top_k"),
            ("top-p:temperature=\x1b[31m", "temperature must be a number", "␛[31m"),
        ],
    )
    def test_a_bad_spec_is_underlined_where_it_is_bad(self, spec: str, error: str, place: str) -> None:
        done = call("generate", "-m", "/no/model", "Once", "-s", spec)
        assert done.code == 2
        assert done.error().startswith(error)
        shown, marks = done.err.splitlines()[1:3]
        start = marks.index("^")
        assert set(marks[start:]) == {"^"}
        assert shown[start : start + len(marks[start:])].strip() == place

    def test_a_choice_that_there_is_not_is_told_with_those_that_there_are(self) -> None:
        done = call("generate", "-m", "/no/model", "Once", "--overflow", "cut")
        assert done.code == 2
        assert done.error() == "Invalid value for '--overflow': 'cut' is not one of 'error', 'truncate-left'."


class TestFailures:
    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        done = call("generate", "-m", tmp_path / "none", "Once")
        assert (done.code, done.out) == (1, "")
        assert done.error() == f"model {tmp_path / 'none'}: no such folder"
        assert done.hint() == "a local model is a folder in Hugging Face format"

    def test_too_many_tokens_for_the_model(self, tiny: Path) -> None:
        done = call("generate", "-m", tiny, "Once", "--max-new-tokens", str(10**9))
        assert (done.code, done.out) == (1, "")
        assert done.error() == "1000000000 new tokens leave no room for a prompt in the model's context of 64"

    @pytest.mark.parametrize("option", ["--model", "--output", "--presets"])
    def test_a_name_acts_on_no_terminal_and_makes_no_second_line(self, option: str, tmp_path: Path) -> None:
        name = f"{tmp_path}/[bold]x[/bold]/\x1b]0;title\x07\nerror: made up/\u202e\x9b/x"
        done = call("generate", "Once", "-s", "@x", option, name)
        if option != "--presets":
            done = call("generate", "Once", option, name)
        assert done.code == 1
        assert "[bold]x[/bold]/␛]0;title␇ error: made up/<U+202E><U+009B>/x" in done.error()

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (GenlmError("one\ntwo"), "one two"),
            (OSError(5, "Input/output error", "weights"), "weights: Input/output error"),
            (OSError(28, "No space left on device"), "cannot write standard output: No space left on device"),
            (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
            (MemoryError(), "out of memory"),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
            (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
            (KeyError("x\x1b"), "unexpected KeyError: 'x\\x1b'"),
            (RuntimeError("two\nlines"), "unexpected RuntimeError: two lines"),
        ],
    )
    def test_whatever_is_raised_is_one_line(self, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_with(error, monkeypatch)
        done = call("generate", "Once")
        assert (done.code, done.out) == (1, "")
        assert done.error() == said

    def test_a_bug_says_how_to_see_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_with(KeyError("x"), monkeypatch)
        assert call("generate", "Once").hint() == "GENLM_DEBUG=1 shows where; please report it"

    @pytest.mark.parametrize("value", ["0", "", "1"])
    def test_a_traceback_comes_only_when_it_is_asked_for(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GENLM_DEBUG", value)
        done = call("generate", "-m", "/no/model", "Once")
        assert ("Traceback" in done.err) == (value == "1")
        assert "error: model /no/model: no such folder\n" in done.err
        assert done.code == 1

    @pytest.mark.parametrize(("raised", "code"), [(BrokenPipeError(), 0), (KeyboardInterrupt(), 130)])
    def test_some_ends_need_no_words(self, raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_with(raised, monkeypatch)
        done = call("generate", "Once")
        assert (done.code, done.out, done.err) == (code, "", "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    @pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
    def test_a_full_disk_under_stdout(self, arguments: list[str]) -> None:
        done = shell(f'"$@" {" ".join(arguments)} >/dev/full')
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"error: No space left on device\n"

    def test_a_closed_pipe_on_windows(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        """Windows calls it an invalid argument."""

        class Closed(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(errno.EINVAL, "Invalid argument")

        run(["--version"])
        for platform, code, error in (("win32", 0, ""), ("linux", 1, "error: Invalid argument\n")):
            monkeypatch.setattr(sys, "platform", platform)
            with contextlib.redirect_stdout(Closed()):
                assert run(["--version"]) == code
            assert capsys.readouterr().err == error

    def test_a_closed_stdout(self) -> None:
        done = shell('"$@" --version >&-')
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"error: Bad file descriptor\n"


class TestSignals:
    @pytest.fixture(autouse=True)
    def restored(self) -> Iterator[None]:
        """What the test runner does with signals is as before."""
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1")
        before = {
            getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names if hasattr(signal, name)
        }
        yield
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.parametrize("consequence", [None, ImportError("half a module")])
    def test_ctrl_c_that_an_import_swallows_or_fails_of_is_still_ctrl_c(self, consequence: Exception | None) -> None:
        def import_something() -> None:
            with insistent_interrupts():
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
                if consequence is not None:
                    raise consequence

        with pytest.raises(KeyboardInterrupt):
            import_something()

    def test_ctrl_c_in_a_callback_of_python_itself_prints_no_traceback(self, capsys: pytest.CaptureFixture) -> None:
        class Finalised:
            def __del__(self) -> None:
                signal.raise_signal(signal.SIGINT)

        def import_something() -> None:
            with insistent_interrupts():
                Finalised()

        with pytest.raises(KeyboardInterrupt):
            import_something()
        assert capsys.readouterr().err == ""

    def test_without_ctrl_c_nothing_is_changed(self) -> None:
        with pytest.raises(ImportError), insistent_interrupts():
            raise ImportError

    def test_what_a_script_runs_in_the_background_stays_deaf_to_ctrl_c(self) -> None:
        hearing = signal.signal(signal.SIGINT, signal.SIG_IGN)
        with insistent_interrupts(), graceful_interrupt() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
        assert signal.signal(signal.SIGINT, hearing) is signal.SIG_IGN

    def test_a_closed_terminal_ends_the_program_by_sighup_or_else_by_sigbreak(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows has only SIGBREAK."""
        number = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGBREAK
        monkeypatch.delattr(signal, "SIGHUP", raising=False)
        monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
        signal.signal(number, signal.SIG_DFL)
        end_tidily_when_told()
        with pytest.raises(SystemExit) as exit:
            signal.raise_signal(number)
        assert exit.value.code == 128 + number

    def test_a_signal_to_end_unwinds_the_program(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_tidily_when_told()
        with pytest.raises(SystemExit) as exit:
            signal.raise_signal(signal.SIGTERM)
        assert exit.value.code == 128 + signal.SIGTERM

    @needs_unix("no SIGHUP")
    def test_a_signal_that_is_ignored_stays_ignored(self) -> None:
        """As by `nohup`."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        end_tidily_when_told()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


class TestProgram:
    def test_alone_it_shows_its_help(self) -> None:
        alone = call()
        assert alone.code == 0
        assert alone.err == ""
        assert "Usage: genlm [OPTIONS] COMMAND" in alone.out
        assert alone.out == call("--help").out

    def test_it_says_its_version(self) -> None:
        assert call("--version").out == f"genlm {package.__version__}\n"

    def test_a_pipe_carries_utf8_and_plain_line_feeds_on_every_system(self) -> None:
        """Windows would have another encoding and other line breaks."""
        pipe = io.BytesIO()
        with contextlib.redirect_stdout(io.TextIOWrapper(pipe, encoding="cp1252", newline="\r\n")) as stdout:
            assert run(["strategies"]) == 0
            stdout.flush()
            shown = pipe.getvalue()
        assert shown.decode() == call("strategies").out
        assert b"\r" not in shown

    def test_the_installed_script_and_the_module_are_the_same_program(self) -> None:
        (script,) = entry_points(group="console_scripts", name="genlm")
        from genlm.cli import main

        assert script.load() is main
        done = genlm("nope")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: No such command 'nope'.\nhint: genlm --help\n"

    @pytest.mark.parametrize("columns", [50, 80, 120])
    def test_the_help_of_generate_shows_its_examples_line_by_line(
        self, columns: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        done = call("generate", "--help")
        lines = done.out.splitlines()
        assert done.code == 0
        assert max(map(len, lines)) <= columns
        examples = [line for line in lines if "genlm generate " in line and "Usage" not in line]
        assert len(examples) == 4
        # A flag takes nothing, and so names no type.
        assert "<bool>" not in done.out

    def test_every_option_has_its_help(self) -> None:
        from genlm.cli.main import COMMANDS

        for name, row in COMMANDS.items():
            command = row.load(name)
            assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first thing that touches a model raise `error`."""

    def fail(*arguments: Any, **options: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("genlm.cli.loading.ModelOptions.load", fail)


def shell(script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script whose `"$@"` is the command."""
    if sys.platform == "win32":
        pytest.skip("no POSIX shell")
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "genlm"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def test_main_exits_with_the_code_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from genlm.cli import main

    # The signals to end are the test runner's.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == run(["--version"]) == 0
