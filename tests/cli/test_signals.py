"""Ctrl-C and the signals that end the program."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest
from support.systems import needs_unix

from genlm.cli.signals import graceful_interrupt, insistent_interrupts, unwind_on_signals


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the signal handlers of the test runner."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("consequence", [None, ImportError("half a module")])
def test_ctrl_c_during_an_import_is_never_lost(consequence: Exception | None) -> None:
    def import_something() -> None:
        with insistent_interrupts():
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            if consequence is not None:
                raise consequence

    with pytest.raises(KeyboardInterrupt):
        import_something()


def test_ctrl_c_in_a_finalizer_prints_no_traceback(capsys: pytest.CaptureFixture) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def import_something() -> None:
        with insistent_interrupts():
            Finalized()

    with pytest.raises(KeyboardInterrupt):
        import_something()
    assert capsys.readouterr().err == ""


def test_without_ctrl_c_errors_pass_through() -> None:
    with pytest.raises(ImportError), insistent_interrupts():
        raise ImportError


def test_a_background_process_that_ignores_ctrl_c_keeps_ignoring_it() -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with insistent_interrupts(), graceful_interrupt() as finishing:
        signal.raise_signal(signal.SIGINT)
        assert not finishing()
    assert signal.signal(signal.SIGINT, handler) is signal.SIG_IGN


def test_a_closed_terminal_ends_the_program_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has SIGBREAK instead of SIGHUP."""
    number = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGBREAK
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
    signal.signal(number, signal.SIG_DFL)
    unwind_on_signals()
    with pytest.raises(SystemExit) as exit:
        signal.raise_signal(number)
    assert exit.value.code == 128 + number


def test_sigterm_unwinds_the_program() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    unwind_on_signals()
    with pytest.raises(SystemExit) as exit:
        signal.raise_signal(signal.SIGTERM)
    assert exit.value.code == 128 + signal.SIGTERM


@needs_unix("no SIGHUP")
def test_an_ignored_sighup_stays_ignored() -> None:
    """As by `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    unwind_on_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
