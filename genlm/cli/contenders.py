"""From the options to the strategies of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from genlm.cli.strategies import choose_strategy
from genlm.decoding.grid import Axis, axes_of, check_axes, crossed, read_axis
from genlm.errors import UsageError
from genlm.tasks.compare import DEFAULT_STRATEGIES, Contender


def choose_contenders(
    specs: Sequence[str], presets: Path | None, grid: Sequence[str], notify: Callable[[str], None]
) -> list[Contender]:
    """The strategies that the options ask for, each with all its combinations of the fields that the grid sweeps.

    A strategy to which none of these fields applies stands as it is, beside the others. Without a strategy the fields
    tell the kind, as plain flags of `genlm generate` do; without fields it is the four best-known kinds.

    Raises:
        UsageError: a spec, preset, field or grid that is wrong, or a field that applies to none of the strategies.
        InputError: a file of presets that cannot be read.
    """
    axes = [read_axis(text) for text in grid]
    check_axes(axes)
    if presets is not None and not any(spec.startswith("@") for spec in specs):
        raise UsageError("--presets is given, but no preset is used", hint="-s @NAME uses one")
    if not specs and axes:
        found = _swept(None, None, axes, notify)
    else:
        found = [
            contender
            for spec in specs or DEFAULT_STRATEGIES
            for contender in _swept(spec, presets if spec.startswith("@") else None, axes, notify)
        ]
    idle = next((axis.field for axis in axes if not any(axis.field in each.swept for each in found)), None)
    if idle is not None:
        raise UsageError(f"the grid's field {idle!r} applies to none of the strategies")
    return list({(each.strategy.name, each.strategy): each for each in found}.values())


def _swept(
    spec: str | None, presets: Path | None, axes: Sequence[Axis], notify: Callable[[str], None]
) -> list[Contender]:
    if spec is not None:
        axes = axes_of(axes, choose_strategy(spec, presets, {}, lambda _: None).kind)
    return [Contender(choose_strategy(spec, presets, fields, notify), fields) for fields in crossed(axes)]
