"""From the options to a strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from genlm.cli import options
from genlm.decoding.kinds import KINDS, LISTS, Given
from genlm.decoding.presets import Preset, read_presets
from genlm.decoding.strategy import Strategy, kind_from_fields, read_fields
from genlm.errors import UsageError


@dataclass(frozen=True)
class StrategyOptions:
    """A strategy by a spec or a preset, and flags that add to it or stand for it."""

    strategy: options.StrategySpec = None
    presets: options.Presets = None
    num_beams: options.NumBeams = None
    top_k: options.TopK = None
    top_p: options.TopP = None
    min_p: options.MinP = None
    typical_p: options.TypicalP = None
    epsilon_cutoff: options.EpsilonCutoff = None
    eta_cutoff: options.EtaCutoff = None
    temperature: options.Temperature = None
    repetition_penalty: options.RepetitionPenalty = None
    no_repeat_ngram_size: options.NoRepeatNgramSize = None
    bad_word: options.BadWord = None
    logit_bias: options.LogitBias = None
    length_penalty: options.LengthPenalty = None

    def choose(self, notify: Callable[[str], None]) -> Strategy:
        """The strategy: see `choose_strategy`."""
        flags = {
            "num_beams": self.num_beams,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "typical_p": self.typical_p,
            "epsilon_cutoff": self.epsilon_cutoff,
            "eta_cutoff": self.eta_cutoff,
            "temperature": self.temperature,
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "bad_words": self.bad_word or None,
            "logit_bias": self.logit_bias or None,
            "length_penalty": self.length_penalty,
        }
        return choose_strategy(self.strategy, self.presets, flags, notify)


def choose_strategy(
    spec: str | None, presets: Path | None, flags: Mapping[str, Given | None], notify: Callable[[str], None]
) -> Strategy:
    """The strategy that the options ask for; plain flags add fields to a spec or preset, items to its lists.

    `notify` is told where a temperature of 0 makes it another kind.

    Raises:
        UsageError: a spec, preset or field that is wrong, or a field that is given twice.
        InputError: a file of presets that cannot be read.
    """
    given = {flag: value for flag, value in flags.items() if value is not None}
    name = ""
    if spec is not None and spec.startswith("@"):
        preset = _preset(spec[1:], presets)
        name = "" if given else preset.name
        kind, fields = preset.kind, _with_flags(preset.fields, given)
    elif presets is not None:
        raise UsageError("--presets is given, but no preset of it is asked for", hint="-s @NAME takes one")
    elif spec is not None:
        kind, fields = _read_spec(spec, given)
    else:
        kind, fields = kind_from_fields(given), given
    strategy = Strategy.of(kind, fields, name=name)
    if strategy.kind != kind:
        notify(f"temperature=0 means {strategy.kind}: {KINDS[strategy.kind].summary}")
    return strategy


def _read_spec(spec: str, given: Mapping[str, Given]) -> tuple[str, dict[str, Given]]:
    kind, fields = read_fields(spec)
    twice = sorted((fields.keys() & given.keys()) - LISTS.keys())
    if twice:
        raise UsageError(f"{twice[0]} is given twice: in the spec {spec!r} and as a flag")
    return kind, _with_flags(fields, given)


def _with_flags(fields: Mapping[str, Given], given: Mapping[str, Given]) -> dict[str, Given]:
    both = {name: field for name, field in LISTS.items() if name in fields and name in given}
    return {**fields, **given, **{name: field.join(fields[name], given[name]) for name, field in both.items()}}


def _preset(name: str, path: Path | None) -> Preset:
    """The preset of the given file, or else of the user's own."""
    places = [path] if path is not None else []
    if own_presets().exists():
        places.append(own_presets())
    if not places:
        raise UsageError(
            f"-s @{name} needs a file of presets",
            hint=f"--presets FILE, as prompts/strategies.toml, or your own {own_presets()}",
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
    """Where a user keeps presets."""
    return Path(typer.get_app_dir("genlm")) / "strategies.toml"
