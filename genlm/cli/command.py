"""How a command is declared: groups of options, its help, and its lazy import."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from functools import wraps
from importlib import import_module
from inspect import Parameter
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from genlm.errors import UsageError

# Groups of options.


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Expand dataclass parameters into one option per field.

    All parameters but the context must be keyword-only; the help lists options in their order.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = signature.parameters.values()
    groups: dict[str, Any] = {each.name: each.annotation for each in parameters if is_dataclass(each.annotation)}
    fields = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}

    @wraps(command)
    def ungrouped(**values: Any) -> None:
        built = {name: group(**{field: values.pop(field) for field in fields[name]}) for name, group in groups.items()}
        command(**values, **built)

    options = [
        option.replace(kind=Parameter.KEYWORD_ONLY) if parameter.name in fields else option
        for parameter in parameters
        for option in fields.get(parameter.name, {parameter.name: parameter}).values()
    ]
    ungrouped.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return ungrouped


def check_alone(
    context: typer.Context,
    option: str,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    hint: str | None = None,
) -> None:
    """Raise UsageError if the command line combines `option` with a parameter outside `only`, or one in `without`."""
    for param in context.command.params:
        name = param.name or ""
        source = context.get_parameter_source(name)
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and (name in without or (only is not None and name not in only)):
            is_argument = param.param_type_name == "argument"
            given = getattr(param, "metavar", name) if is_argument else max(param.opts, key=len)
            raise UsageError(f"{option} and {given} cannot be combined", hint=hint)


# Help and lazy import.


class Command(TyperCommand):
    """A command with quieter help: flags show no type, and --help is listed last."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options, with --help in the last panel instead of a separate one."""
        params = _without_flag_types(super().get_params(ctx))
        panels = [panel for param in params if (panel := getattr(param, "rich_help_panel", None))]
        if panels and params[-1].name == "help":
            params[-1].rich_help_panel = panels[-1]
        return params


class Group(TyperGroup):
    """A group of commands with the same quieter help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _without_flag_types(super().get_params(ctx))


def _without_flag_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


class Row(NamedTuple):
    """A command in the list: the `module:name` of its function or Typer app, and its line of help."""

    place: str
    help: str

    def load(self, name: str) -> Any:
        """Import the command and return it under this name."""
        module, _, attribute = self.place.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(name, cls=Command)(found)
        return typer.main.get_command(app)


class LazyGroup(Group):
    """A group that lists its commands from a table and imports a command only when it is needed."""

    table: ClassVar[Mapping[str, Row]] = {}

    def __init__(self, **settings: Any) -> None:
        listed = {name: TyperCommand(name, help=row.help) for name, row in self.table.items()}
        super().__init__(**{**settings, "commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the command in `args[0]`, the command itself, and the remaining arguments."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, self.table[name].load(name) if name else listed, rest
