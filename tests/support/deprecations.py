"""Turn warnings about our own code into errors, and leave those about a library's internals alone.

A warning may name a line of a decorator, of torch's `Module.__call__` or of the deprecated function itself, and some
functions log instead of warning. So the call stack decides: a warning is ours if genlm or a test made the call.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]
OURS = ("genlm", "tests", "support")
# Modules whose functions wrap others and pass calls on.
WRAPPERS = (
    "contextlib",
    "functools",
    "typing_extensions",
    "torch.nn.modules.module",
    "torch.utils._contextlib",
    "transformers.utils",
    "huggingface_hub.utils",
)
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class LoggedDeprecation(FutureWarning):
    """A deprecation that a library logged instead of warning about it."""


class Logger(logging.Logger):
    """A logger that also turns a logged deprecation into a warning, even if genlm has silenced the logger."""

    def warning(self, msg: object, *args: object, **kwargs: Any) -> None:
        if "deprecat" in str(msg):
            warnings.warn(str(msg), LoggedDeprecation, stacklevel=2)
        super().warning(msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})


@contextmanager
def ours_as_errors() -> Iterator[None]:
    """Raise every warning about our own code, and show the others as usual."""
    show = warnings.showwarning

    def raise_or_show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if is_ours(category, filename, lineno):
            raise message if isinstance(message, Warning) else category(message)
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = raise_or_show
    try:
        yield
    finally:
        warnings.showwarning = show


def is_ours(category: type[Warning], filename: str, lineno: int) -> bool:
    """Return whether the warning being issued is about a call that genlm or a test made."""
    # Python reports an unclosed file in unrelated code.
    if issubclass(category, ResourceWarning):
        return False
    innermost = frame = _outside(sys._getframe(), (__name__, "warnings", "logging"))
    while frame is not None and (frame.f_code.co_filename, frame.f_lineno) != (filename, lineno):
        frame = frame.f_back
    # A warning of the compiler: no frame runs that line.
    if frame is None:
        return any(Path(filename).is_relative_to(ROOT / folder) for folder in ("genlm", "tests"))
    frame = _outside(frame, WRAPPERS)
    if frame is not None and (
        issubclass(category, LoggedDeprecation)
        or (issubclass(category, DEPRECATIONS) and frame is innermost and "warn" in frame.f_code.co_names)
    ):
        # The function warns about itself.
        frame = _outside(frame.f_back, WRAPPERS)
    return frame is not None and _is_in(frame, OURS)


def _outside(frame: FrameType | None, modules: tuple[str, ...]) -> FrameType | None:
    """Return the first frame outside these modules, going from callee to caller."""
    while frame is not None and _is_in(frame, modules):
        frame = frame.f_back
    return frame


def _is_in(frame: FrameType, modules: tuple[str, ...]) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return any(name == module or name.startswith(f"{module}.") for module in modules)
