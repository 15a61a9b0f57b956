"""Handle Ctrl-C and the signals that end a program."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

# Ctrl-C, and the signal with which SLURM, Kubernetes and systemd end a program.
ENDINGS = (signal.SIGINT, signal.SIGTERM)

# The notice to show if Ctrl-C ends the program. `genlm.cli.main` resets and shows it.
INTERRUPT_NOTICE: ContextVar[str] = ContextVar("INTERRUPT_NOTICE", default="")


def unwind_on_signals() -> None:
    """Make the signals that end a program raise an exception, so that no half-written file stays behind."""
    # SIGHUP and, on Windows, SIGBREAK: the terminal was closed.
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise _ending(number)


def _ending(number: int) -> BaseException:
    """Return the exception with which a signal ends the program."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Make sure that Ctrl-C ends a block with imports: some packages catch KeyboardInterrupt or fail on it."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        # Python cannot raise an exception out of some callbacks and prints its traceback instead.
        sys.unraisablehook = lambda _: None
        raise KeyboardInterrupt

    hook = sys.unraisablehook
    try:
        with _handled((signal.SIGINT,), press):
            yield
    finally:
        sys.unraisablehook = hook
        if pressed:
            raise KeyboardInterrupt


class Finishing:
    """A request to finish, made by Ctrl-C or SIGTERM. Call it between two pieces of work to see if there is one.

    `ending` is the exception to end the program with: KeyboardInterrupt, or SystemExit after SIGTERM. The first call
    after the signal calls `notify`; calls more than `most_s` seconds later raise the ending.
    """

    def __init__(self, notify: Callable[[str], None], most_s: float) -> None:
        self.pressed = False
        self.ending: BaseException = KeyboardInterrupt()
        self._notify = notify
        self._most_s = most_s
        self._deadline: float | None = None

    def press(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; the second one raises the ending."""
        if self.pressed:
            raise _ending(number)
        self.pressed = True
        self.ending = _ending(number)

    def __call__(self) -> bool:
        """Return whether to start no more work. Raise the ending if the running work takes too long."""
        if not self.pressed:
            return False
        if self._deadline is None:
            # Not in the signal handler, which can run in the middle of other output.
            self._notify("finishing the running work; press Ctrl-C again to stop immediately")
            self._deadline = time.monotonic() + self._most_s
        if time.monotonic() > self._deadline:
            raise self.ending
        return True


@contextmanager
def graceful_interrupt(notify: Callable[[str], None] = lambda _: None, most_s: float = math.inf) -> Iterator[Finishing]:
    """Let a block finish its running work after Ctrl-C or SIGTERM, for at most `most_s` seconds.

    A second signal ends it immediately.
    """
    finishing = Finishing(notify, most_s)
    with _handled(ENDINGS, finishing.press):
        yield finishing


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals in a block, except those that are ignored.

    The shell of a script makes background programs ignore Ctrl-C, which is meant for the script.
    """
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)
