"""Skip tests on systems that cannot run them."""

from __future__ import annotations

import sys

import pytest


def needs_unix(reason: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test on Windows."""
    return pytest.mark.skipif(sys.platform == "win32", reason=f"on Windows: {reason}")
