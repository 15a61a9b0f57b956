"""Writes docs/commands.md from what `--help` shows: `make docs`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TARGET = Path(__file__).parent / "commands.md"
WIDTH = 100


def reference() -> str:
    """The whole page: the help of genlm, then that of each of its commands."""
    head = ["# Commands", "", "What `--help` shows, written by `make docs`; a test holds this page to the code.", ""]
    return "\n".join([*head, *_section([]), *(line for words in commands() for line in _section(words))])


def commands() -> Iterator[list[str]]:
    """The words of every command in the order of the help, each group followed by its own."""
    from genlm.cli.main import COMMANDS

    for name, row in COMMANDS.items():
        yield [name]
        yield from ([name, part] for part in getattr(row.load(name), "commands", ()))


def _section(arguments: list[str]) -> Iterator[str]:
    yield from [f"## `{' '.join(['genlm', *arguments])}`", "", "```text", *_help(arguments), "```", ""]


def _help(arguments: list[str]) -> list[str]:
    """The lines of `--help`, from a process of its own so that nothing of this one's terminal shows."""
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "GENLM_MODEL")}
    shown = subprocess.run(
        [sys.executable, "-m", "genlm", *arguments, "--help"],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env=environment | {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1"},
    )
    return [line.rstrip() for line in shown.stdout.strip("\n").splitlines() if line.strip()]


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
