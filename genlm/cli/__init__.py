"""The command line: every command is a file beside this one that parses, calls a task and shows what it yields."""

from __future__ import annotations

from genlm.cli.main import app, main

__all__ = ["app", "main"]
