"""The table of commands: listed without an import, and the command itself once it is named."""

from __future__ import annotations

import inspect

import pytest
from support.driving import call

from genlm.cli.main import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    row = COMMANDS[name]
    command = row.load(name)
    assert command.name == name
    assert row.help == inspect.cleandoc(command.help).split("\n\n")[0]


def test_the_list_holds_every_command() -> None:
    shown = " ".join(call("--help").out.replace("│", " ").split())
    for name, row in COMMANDS.items():
        assert f"{name} {row.help}" in shown


def test_a_wrong_name_gets_the_nearest() -> None:
    assert call("tokenise", "x").error() == "No such command 'tokenise'. Did you mean 'tokenize'?"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("genlm gen", ["generate"]),
        ("genlm generate --top", ["--top-k", "--top-p"]),
        ("genlm strategies s", ["show"]),
        ("genlm strategies show --for", ["--format"]),
    ],
)
def test_a_shell_completes_commands_and_their_options(
    typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_GENLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert call().out.split() == offered
