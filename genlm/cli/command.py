"""How a command shows its help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


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


def _without_flag_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params
