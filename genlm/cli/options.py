"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from genlm.decoding.kinds import Value
from genlm.decoding.presets import read_presets
from genlm.decoding.strategy import Strategy, kind_from_fields, read_fields
from genlm.errors import UsageError
from genlm.views.terminal import visible

MODEL, STRATEGY, LENGTH, OUTPUT = "Model", "Strategy", "Length and count", "Output"

ModelName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        envvar="GENLM_MODEL",
        help="fable (bundled), a local folder, or a Hub id such as gpt2. Without it: gpt2, or fable where gpt2 is "
        "neither cached nor to be reached.",
        rich_help_panel=MODEL,
    ),
]
Revision: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="REF", help="Branch, tag or commit of a Hub model.", rich_help_panel=MODEL),
]
Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="Where the model runs; auto is the best there is.", rich_help_panel=MODEL),
]
Dtype: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        help="Type of weights and activations; auto is float32 on the CPU, the checkpoint's own elsewhere.",
        rich_help_panel=MODEL,
    ),
]
AllowPickle: TypeAlias = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Also load pickled weights, if you trust their source.", rich_help_panel=MODEL),
]
StrategySpec: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        "-s",
        metavar="SPEC",
        help="KIND[:FIELD=VALUE,...], as beam:num_beams=4, or @NAME for a preset. Kinds: greedy, beam, sample, "
        "top-k, top-p.",
        rich_help_panel=STRATEGY,
        show_default="top-p:top_p=0.9",
    ),
]
Presets: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="TOML file of named strategies.", rich_help_panel=STRATEGY),
]
NumBeams: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Beam search with N beams.", rich_help_panel=STRATEGY)
]
TopK: TypeAlias = Annotated[
    int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens.", rich_help_panel=STRATEGY)
]
TopP: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="P", help="Draw from the likeliest tokens that hold P together.", rich_help_panel=STRATEGY),
]
Temperature: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="T", help="Below 1 sharper, above 1 flatter; 0 is greedy.", rich_help_panel=STRATEGY),
]
RepetitionPenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="X", help="Above 1: tokens already there count for less.", rich_help_panel=STRATEGY),
]
NoRepeatNgramSize: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="No N tokens in a row come twice.", rich_help_panel=STRATEGY)
]
LengthPenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="X", help="Beam search: above 0 favours longer texts.", rich_help_panel=STRATEGY),
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No notices and no summary on stderr.")]


def choose_strategy(spec: str | None, presets: Path | None, flags: Mapping[str, Value | None]) -> Strategy:
    """The strategy that the options ask for; plain flags add fields to a spec or preset.

    Raises:
        UsageError: a spec, preset or field that is wrong, or a field that is given twice.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if spec is None:
        return Strategy.of(kind_from_fields(given), given)
    if spec.startswith("@"):
        preset = _preset(spec[1:], presets)
        return Strategy.of(preset.kind, {**preset.fields, **given}) if given else preset
    kind, fields = read_fields(spec)
    twice = sorted(fields.keys() & given.keys())
    if twice:
        raise UsageError(f"{twice[0]} is given twice: in the spec {spec!r} and as a flag")
    return Strategy.of(kind, {**fields, **given})


def is_greedy_by_temperature(spec: str | None, strategy: Strategy, temperature: float | None) -> bool:
    """Whether a temperature of 0 made this strategy greedy."""
    return strategy.kind == "greedy" and (temperature is not None or (spec or "").partition(":")[0] != "greedy")


def _preset(name: str, path: Path | None) -> Strategy:
    if path is None:
        raise UsageError(f"-s @{name} needs a file of presets", hint="--presets FILE, as prompts/strategies.toml")
    presets = read_presets(path)
    if name not in presets:
        raise UsageError(f"{path} has no preset {name!r}", hint="it has " + (", ".join(presets) or "none"))
    return presets[name]


def notify(line: str) -> None:
    """A notice on stderr."""
    print(visible(line), file=sys.stderr, flush=True)
