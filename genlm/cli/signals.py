"""What the signals of a user and of the machine do."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def end_tidily_when_told() -> None:
    """Let a signal to end unwind the program as an error does, so that no half-written file stays behind."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


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

    handler, hook = signal.signal(signal.SIGINT, press), sys.unraisablehook
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook
        if pressed:
            raise KeyboardInterrupt


# After the first Ctrl-C, in seconds.
MOST_FINISHING_S = 10.0


class Finishing:
    """Whether a user wants to come to an end: as soon as Ctrl-C was pressed, and only for so long.

    `notify` is told once, outside of the handler.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.pressed = False
        self._deadline = 0.0
        self._notify: Callable[[str], None] | None = notify

    def press(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal. Raises KeyboardInterrupt the second time."""
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        self._deadline = time.monotonic() + MOST_FINISHING_S

    def __call__(self) -> bool:
        """Whether nothing more is to begin. Raises KeyboardInterrupt where what was under way has had its time."""
        if self.pressed and self._notify is not None:
            self._notify("finishing what is under way; Ctrl-C again leaves at once")
            self._notify = None
        if self.pressed and time.monotonic() > self._deadline:
            raise KeyboardInterrupt
        return self.pressed


@contextmanager
def patient_interrupts(notify: Callable[[str], None]) -> Iterator[Finishing]:
    """Lets a first Ctrl-C ask a block to finish, and a second end it."""
    finishing = Finishing(notify)
    handler = signal.signal(signal.SIGINT, finishing.press)
    try:
        yield finishing
    finally:
        signal.signal(signal.SIGINT, handler)
