"""How commands are declared: lazy import, groups of options, combinations of options, completion."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, cast

import pytest
import typer
from support.driving import call

from genlm.cli.command import check_alone, grouped
from genlm.cli.main import COMMANDS
from genlm.errors import UsageError

# The table of commands.


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_repeats_the_first_line_of_each_help(name: str) -> None:
    row = COMMANDS[name]
    command = row.load(name)
    assert command.name == name
    assert row.help == inspect.cleandoc(command.help).split("\n\n")[0]


def test_help_lists_every_command() -> None:
    shown = " ".join(call("--help").out.replace("│", " ").split())
    for name, row in COMMANDS.items():
        assert f"{name} {row.help}" in shown


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("genlm gen", ["generate"]),
        ("genlm generate --top", ["--top-k", "--top-p"]),
        ("genlm strategies s", ["show"]),
        ("genlm strategies show --for", ["--format"]),
    ],
)
def test_shell_completion_offers_commands_and_options(
    typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_GENLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert call().out.split() == offered


# All options of all commands.


def all_options() -> dict[str, dict[str, Any]]:
    """Return every option by its long name, and by command."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, row in COMMANDS.items():
        for param in row.load(name).params:
            if param.param_type_name == "option":
                found[max(param.opts, key=len)][name] = param
    return found


def test_every_parameter_has_a_help_text() -> None:
    for name, row in COMMANDS.items():
        assert [param.name for param in row.load(name).params if not getattr(param, "help", None)] == []


def test_an_option_has_the_same_short_name_in_every_command() -> None:
    short_names = defaultdict(set)
    for option, by_command in all_options().items():
        assert len({tuple(sorted(param.opts)) for param in by_command.values()}) == 1, option
        for param in by_command.values():
            short_names[min(param.opts, key=len)].add(option)
    assert {name: options for name, options in short_names.items() if len(options) > 1} == {}


def test_an_option_that_takes_a_file_or_a_model_does_so_in_every_command() -> None:
    for option, by_command in all_options().items():
        values = {param.metavar for param in by_command.values()}
        for value in ("FILE", "MODEL", "SPEC", "REF"):
            # `--output` of batch and train is a folder.
            assert value not in values or option == "--output" or len(values) == 1, option


# Groups of options.


@dataclass(frozen=True)
class Size:
    """Two options that go together."""

    width: Annotated[int, typer.Option("--width", "-w", help="How wide.")] = 3
    name: Annotated[str | None, typer.Option(help="What it is called.")] = None


@dataclass(frozen=True)
class Look:
    """One more option."""

    colour: Annotated[str, typer.Option()] = "red"


given: list[object] = []


@grouped
def paint(
    context: typer.Context,
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    size: Size,
    loud: bool = False,
    look: Look,
) -> None:
    """Paint a text."""
    given[:] = [context, text, size, loud, look]


@pytest.fixture(scope="module")
def command() -> typer.main.TyperCommand:
    app = typer.Typer(add_completion=False)
    app.command("paint")(paint)
    return typer.main.get_command(app)


def run(command: typer.main.TyperCommand, *arguments: str) -> list[object]:
    given.clear()
    assert not command.main([*arguments], prog_name="paint", standalone_mode=False)
    return given[1:]


def test_a_dataclass_becomes_one_option_per_field_in_its_place(command: typer.main.TyperCommand) -> None:
    names = [param.name for param in command.params]
    assert names == ["text", "width", "name", "loud", "colour"]
    assert [command.params[1].opts, command.params[1].default] == [["--width", "-w"], 3]


def test_options_that_are_not_given_have_the_defaults_of_the_dataclass(command: typer.main.TyperCommand) -> None:
    assert run(command, "a") == ["a", Size(), False, Look()]


def test_options_that_are_given_arrive_in_the_dataclass(command: typer.main.TyperCommand) -> None:
    values = run(command, "a", "-w", "5", "--name", "b", "--loud", "--colour", "blue")
    assert values == ["a", Size(5, "b"), True, Look("blue")]


def test_a_grouped_command_keeps_its_name_and_help() -> None:
    assert (paint.__name__, paint.__doc__) == ("paint", "Paint a text.")


def test_an_option_in_two_groups_is_an_error() -> None:
    def twice(*, size: Size, other: Size) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name"):
        grouped(twice)


# Combinations of options.


@pytest.mark.parametrize(
    ("only", "without", "refused"),
    [
        (None, (), None),
        (("text", "width", "loud"), (), None),
        (("text",), (), "--width"),
        (("width", "loud"), (), "TEXT"),
        (None, ("name", "colour"), None),
        (None, ("loud",), "--loud"),
    ],
)
def test_options_that_cannot_be_combined(
    only: Collection[str] | None, without: Collection[str], refused: str | None, command: typer.main.TyperCommand
) -> None:
    run(command, "a", "--width", "3", "--loud")
    context = cast(typer.Context, given[0])
    if refused is None:
        check_alone(context, "--alone", only=only, without=without)
        return
    with pytest.raises(UsageError) as caught:
        check_alone(context, "--alone", only=only, without=without, hint="it stands alone")
    assert str(caught.value) == f"--alone and {refused} cannot be combined"
    assert caught.value.hint == "it stands alone"
