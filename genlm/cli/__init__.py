"""The command line: one module per command, which parses options, calls a task and shows what it yields."""

from __future__ import annotations

try:
    from genlm.cli.main import app, main
# The imports take long enough for Ctrl-C, and nothing catches errors yet.
except KeyboardInterrupt:
    raise SystemExit(130) from None

__all__ = ["app", "main"]
