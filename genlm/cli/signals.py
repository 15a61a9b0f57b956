"""What the signals of a user and of the machine do."""

from __future__ import annotations

import signal
import sys
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


@contextmanager
def graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, for a block that ends itself at a good place. Pressed again it ends at once."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    handler = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, handler)
