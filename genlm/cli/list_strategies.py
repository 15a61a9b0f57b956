"""`genlm strategies`."""

from __future__ import annotations

from typing import Annotated

import typer

from genlm.cli import options
from genlm.cli.command import Command, Group
from genlm.decoding.strategy import find_kind
from genlm.views.strategies import show_kind, show_kinds

strategies = typer.Typer(
    name="strategies", cls=Group, invoke_without_command=True, add_completion=False, rich_markup_mode="rich"
)


@strategies.callback()
def list_strategies(context: typer.Context, format: options.Format = "text") -> None:
    """List the decoding strategies with their fields, defaults, ranges and papers.

    genlm strategies
    genlm strategies show min-p
    """
    if context.invoked_subcommand is None:
        show_kinds(format)
    context.default_map = {"show": {"format": format}}


@strategies.command(cls=Command)
def show(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A kind that genlm strategies lists.")],
    format: options.Format = "text",
) -> None:
    """Explain one strategy, with its formula.

    genlm strategies show mirostat
    """
    show_kind(find_kind(kind), format)
