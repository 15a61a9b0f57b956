"""How a command shows its help, and when it is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from genlm.errors import UsageError


class Command(TyperCommand):
    """A command whose help is free of noise: a flag has no type, and --help no panel of its own before all others."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Every argument and option, --help last."""
        params = _without_flag_types(super().get_params(ctx))
        panels = [panel for param in params if (panel := getattr(param, "rich_help_panel", None))]
        if panels and params[-1].name == "help":
            params[-1].rich_help_panel = panels[-1]
        return params


class Group(TyperGroup):
    """A group of commands with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Every option."""
        return _without_flag_types(super().get_params(ctx))


class Row(NamedTuple):
    """Where a command is, as `module:name` of a function or a Typer, and its line in the list of commands."""

    place: str
    help: str

    def load(self, name: str) -> Any:
        """The command itself, under this name."""
        module, _, attribute = self.place.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, cls=Command)(found)
        return typer.main.get_command(alone)


def check_alone(
    context: typer.Context, option: str, *, only: Collection[str] | None = None, without: Collection[str] = ()
) -> None:
    """Raise UsageError where an option is given that does not go with another: one that is not in `only`."""
    for param in _on_command_line(context):
        if param.name in without or (only is not None and param.name not in only):
            is_argument = param.param_type_name == "argument"
            given = getattr(param, "metavar", None) if is_argument else max(param.opts, key=len)
            raise UsageError(f"{given} does not go with {option}")


def check_saved_alone(context: typer.Context, option: str, saved: str, *, only: Collection[str]) -> None:
    """Raise UsageError where anything is given that is not in `only`, for `option` takes it from what is `saved`."""
    for param in _on_command_line(context):
        if param.name not in only:
            given = "a prompt" if param.param_type_name == "argument" else max(param.opts, key=len)
            raise UsageError(f"{option} takes everything from the saved {saved}: {given} does not go with it")


def _on_command_line(context: typer.Context) -> Iterator[Any]:
    """The arguments and options that are given there, in the order of the help."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is not None and source.name == "COMMANDLINE":
            yield param


class LazyGroup(Group):
    """A group that lists its commands from a table, and imports one when it is run, helped or completed."""

    table: ClassVar[Mapping[str, Row]] = {}

    def __init__(self, **settings: Any) -> None:
        listed = {name: TyperCommand(name, help=row.help) for name, row in self.table.items()}
        super().__init__(**{**settings, "commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The name of the command that the arguments begin with, the command itself, and the other arguments."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, self.table[name].load(name) if name else listed, rest


def _without_flag_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params
