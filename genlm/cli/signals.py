"""What the signals of a user and of the machine do."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, and how SLURM, Kubernetes and systemd end a program.
ENDINGS = (signal.SIGINT, signal.SIGTERM)


def end_tidily_when_told() -> None:
    """Make the signals that end a program raise an exception, so that no half-written file stays behind."""
    # SIGHUP and, on Windows, SIGBREAK: the terminal was closed.
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise _ending(number)


def _ending(number: int) -> BaseException:
    """How a signal ends the program."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Lets Ctrl-C end a block that imports large packages, which catch a KeyboardInterrupt and go on, or fail of it."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        # Python reports an exception in a callback of its own, where it cannot go up, with a traceback.
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
    """Whether someone wants it to come to an end: as soon as one of the signals came. `notify` is told so once.

    `ending` is then what the program is to end with: KeyboardInterrupt, or SystemExit for another signal than SIGINT.
    """

    def __init__(self, notify: Callable[[str], None], most_s: float) -> None:
        self.pressed = False
        self.ending: BaseException = KeyboardInterrupt()
        self._notify = notify
        self._most_s = most_s
        self._deadline: float | None = None

    def press(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals. Raises the ending the second time."""
        if self.pressed:
            raise _ending(number)
        self.pressed = True
        self.ending = _ending(number)

    def __call__(self) -> bool:
        """Whether nothing more is to begin. Raises the ending where what was under way has had its time."""
        if not self.pressed:
            return False
        if self._deadline is None:
            # Not in the handler, which may have come between any two bytes of other output.
            self._notify("finishing what is under way; Ctrl-C again leaves at once")
            self._deadline = time.monotonic() + self._most_s
        if time.monotonic() > self._deadline:
            raise self.ending
        return True


@contextmanager
def graceful_interrupt(notify: Callable[[str], None] = lambda _: None, most_s: float = math.inf) -> Iterator[Finishing]:
    """Whether Ctrl-C was pressed, for a block that ends itself at a good place, within so many seconds.

    Pressed again it ends at once. SIGTERM means the same.
    """
    finishing = Finishing(notify, most_s)
    with _handled(ENDINGS, finishing.press):
        yield finishing


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals for a block, but those that the program was started deaf to.

    A script's shell starts so what it runs in the background, which a Ctrl-C to the script is not meant for.
    """
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)
