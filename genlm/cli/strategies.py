"""The options that select a strategy and limit its output, which `generate` and `batch` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from genlm.cli import options
from genlm.decoding.declaration import Field, Given
from genlm.decoding.kinds import ALL_FIELDS, KINDS
from genlm.decoding.strategy import DEFAULT_KIND, Preset, Strategy, kind_from_fields, read_fields, read_presets
from genlm.errors import UsageError
from genlm.formats.texts import check_utf8
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, Limits


def _flagged_fields() -> dict[str, Field[Any]]:
    """Return the fields that have a plain flag by its parameter's name; those that select a kind come first."""
    fields = {kind.main: kind.fields[kind.main] for kind in KINDS.values() if kind.selected_by}
    for field in [*KINDS[DEFAULT_KIND].fields.values(), *ALL_FIELDS.values()]:
        fields.setdefault(field.name, field)
    return {_flag_of(field)[2:].replace("-", "_"): field for field in fields.values() if field.flag}


def _flag_of(field: Field[Any]) -> str:
    return field.flag.split()[0]


def _parameter(name: str, field: Field[Any]) -> Parameter:
    """Return the parameter of a field's flag, as Typer reads it."""
    flag, metavar = field.flag.split()
    help = f"{field.meaning} ({'may be repeated' if field.is_list else field.values.range})."
    given: Any = list[str] if field.is_list else type(field.default)
    option = options.strategy_option(flag, metavar=metavar, help=help)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[given | None, option])


FLAGS = _flagged_fields()


@dataclass(init=False)
class StrategyOptions:
    """A strategy by spec or preset, and the plain flags that add to it or imply it.

    Its options are --strategy, --presets, and one for each field that declares a flag.
    """

    strategy: str | None
    presets: Path | None
    flags: Mapping[str, Given]

    __signature__: ClassVar[Signature] = Signature(
        [
            Parameter("strategy", Parameter.KEYWORD_ONLY, default=None, annotation=options.StrategySpec),
            Parameter("presets", Parameter.KEYWORD_ONLY, default=None, annotation=options.Presets),
            *(_parameter(name, field) for name, field in FLAGS.items()),
        ]
    )

    def __init__(self, strategy: str | None, presets: Path | None, **given: Any) -> None:
        self.strategy = strategy
        self.presets = presets
        self.flags = {field.name: given[name] for name, field in FLAGS.items() if given[name] not in (None, [])}

    def choose(self, notify: Callable[[str], None]) -> Strategy:
        """Return the strategy; see `choose_strategy`."""
        return choose_strategy(self.strategy, self.presets, self.flags, notify)


@dataclass(frozen=True)
class LengthOptions:
    """The length and number of completions, and the texts that end them."""

    max_new_tokens: options.MaxNewTokens = DEFAULT_NEW_TOKENS
    num_return_sequences: options.NumReturnSequences = 1
    stop: options.Stop = None
    overflow: options.OnOverflow = "error"

    def limits(self) -> Limits:
        """Return the limits. Raise UsageError if a number is out of range, InputError if a text is not UTF-8."""
        stops = tuple(check_utf8(text, "a stop text") for text in self.stop or ())
        return Limits(self.max_new_tokens, self.num_return_sequences, stops, self.overflow)


def choose_strategy(
    spec: str | None, presets: Path | None, flags: Mapping[str, Given], notify: Callable[[str], None]
) -> Strategy:
    """Return the strategy that the options ask for; flags add fields to a spec or preset, and items to its lists.

    Call `notify` if a temperature of 0 turns it into another kind.

    Raises:
        UsageError: an invalid spec, preset or field, or a field that is given twice.
        InputError: a file of presets that cannot be read.
    """
    name = ""
    if spec is not None and spec.startswith("@"):
        preset = _preset(spec[1:], presets)
        name = "" if flags else preset.name
        kind, fields = preset.kind, preset.fields
    elif presets is not None:
        raise UsageError("--presets is given, but no preset is used", hint="-s @NAME uses one")
    elif spec is not None:
        kind, fields = read_fields(spec)
        twice = next((name for name in fields if name in flags and not ALL_FIELDS[name].is_list), None)
        if twice is not None:
            raise UsageError(f"{twice} is given twice: in the spec {spec!r} and as a flag")
    else:
        kind, fields = kind_from_fields(flags), {}
    both = [name for name in fields if name in flags and ALL_FIELDS[name].is_list]
    joined = {name: ALL_FIELDS[name].join(fields[name], flags[name]) for name in both}
    strategy = Strategy.of(kind, {**fields, **flags, **joined}, name=name)
    if strategy.kind != kind:
        notify(f"temperature=0 means {strategy.kind}: {strategy.declaration.summary}")
    return strategy


def _preset(name: str, path: Path | None) -> Preset:
    """Return a preset of the given file, or else of the user's own file."""
    places = [path] if path is not None else []
    if own_presets().exists():
        places.append(own_presets())
    if not places:
        raise UsageError(
            f"-s @{name} needs a file of presets",
            hint=f"use --presets FILE, such as prompts/strategies.toml, or create {own_presets()}",
        )
    known: list[str] = []
    for place in places:
        presets = read_presets(place)
        if name in presets:
            return presets[name]
        known += presets
    where = " and ".join(map(str, places))
    raise UsageError(f"no preset {name!r} in {where}", hint="there are " + (", ".join(dict.fromkeys(known)) or "none"))


def own_presets() -> Path:
    """Return where a user keeps presets."""
    return Path(typer.get_app_dir("genlm")) / "strategies.toml"
