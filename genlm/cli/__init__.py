"""The command line: every command is a file beside this one that parses, calls a task and shows what it yields."""

from __future__ import annotations

try:
    from genlm.cli.main import app, main
# The imports take long enough to be interrupted, and there is no error boundary yet.
except KeyboardInterrupt:
    raise SystemExit(130) from None

__all__ = ["app", "main"]
