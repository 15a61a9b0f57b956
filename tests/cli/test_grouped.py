"""A dataclass in the signature of a command is as many options as it has fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from genlm.cli.grouped import grouped


@dataclass(frozen=True)
class Size:
    """Two options that go together."""

    width: Annotated[int, typer.Option("--width", "-w", help="How wide.")] = 3
    name: Annotated[str | None, typer.Option(help="What it is called.")] = None


@dataclass(frozen=True)
class Look:
    """One more."""

    colour: Annotated[str, typer.Option()] = "red"


given: list[object] = []


@grouped
def paint(
    context: typer.Context,
    *,
    text: Annotated[str, typer.Argument()],
    size: Size,
    loud: bool = False,
    look: Look,
) -> None:
    """Paint a text."""
    given[:] = [context.info_name, text, size, loud, look]


@pytest.fixture(scope="module")
def command() -> typer.main.TyperCommand:
    app = typer.Typer(add_completion=False)
    app.command("paint")(paint)
    return typer.main.get_command(app)


def run(command: typer.main.TyperCommand, *arguments: str) -> list[object]:
    given.clear()
    assert not command.main([*arguments], prog_name="paint", standalone_mode=False)
    return given


def test_its_options_stand_where_it_stands(command: typer.main.TyperCommand) -> None:
    names = [param.name for param in command.params]
    assert names == ["text", "width", "name", "loud", "colour"]
    assert [command.params[1].opts, command.params[1].default] == [["--width", "-w"], 3]


def test_what_is_not_given_is_as_the_dataclass_has_it(command: typer.main.TyperCommand) -> None:
    assert run(command, "a") == ["paint", "a", Size(), False, Look()]


def test_what_is_given_is_in_its_dataclass(command: typer.main.TyperCommand) -> None:
    seen = run(command, "a", "-w", "5", "--name", "b", "--loud", "--colour", "blue")
    assert seen == ["paint", "a", Size(5, "b"), True, Look("blue")]


def test_a_command_keeps_its_name_and_help() -> None:
    assert (paint.__name__, paint.__doc__) == ("paint", "Paint a text.")


def test_one_option_in_two_groups_is_no_command() -> None:
    def twice(*, size: Size, other: Size) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name"):
        grouped(twice)
