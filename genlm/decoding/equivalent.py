"""A strategy as the arguments of transformers' `generate`: every one that matters, none left to a default."""

from __future__ import annotations

from genlm.decoding.kinds import KINDS, LISTS
from genlm.decoding.strategy import Strategy
from genlm.decoding.words import read_biases
from genlm.errors import UsageError

# What `generate` calls as genlm does, with the value that does nothing.
SHARED: dict[str, object] = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
SAMPLING: dict[str, object] = {
    "temperature": 1.0,
    "top_h": None,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
BEAM: dict[str, object] = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
# Those of genlm's kinds that transformers runs without code from the Hub.
STOCK_KINDS = (
    "greedy",
    "beam",
    "beam-sample",
    "sample",
    "top-k",
    "top-p",
    "min-p",
    "typical",
    "epsilon",
    "eta",
    "top-h",
)


def stock_settings(strategy: Strategy) -> dict[str, object]:
    """The keyword arguments with which `generate` runs a strategy, by name; bad words have none without a tokenizer.

    Raises:
        UsageError: a kind, or a field at a value, that transformers does not have.
    """
    if strategy.kind not in STOCK_KINDS:
        raise UsageError(
            f"transformers has no strategy of the kind {strategy.kind}",
            hint="without code from the Hub it has " + ", ".join(STOCK_KINDS),
        )
    is_beam = "num_beams" in strategy.fields
    settings: dict[str, object] = {"do_sample": strategy.samples, "num_beams": 1}
    settings |= BEAM if is_beam else {}
    settings |= SAMPLING if strategy.samples else {}
    settings |= SHARED
    biases = read_biases(str(strategy.fields["logit_bias"]))
    if biases:
        settings["sequence_bias"] = [[[token], bias] for token, bias in biases.items()]
    for name, value in strategy.fields.items():
        if name in settings:
            settings[name] = None if name == "top_h" and value == 0 else value
        elif name not in LISTS and _does_something(strategy, name):
            raise UsageError(f"transformers has no {name}")
    return settings


def _does_something(strategy: Strategy, name: str) -> bool:
    """Whether a field is not at its default; dry_base, for one, does nothing where dry_multiplier is."""
    if name.startswith("dry_"):
        name = "dry_multiplier"
    if name.startswith("xtc_"):
        name = "xtc_probability"
    return strategy.fields[name] != KINDS[strategy.kind].fields[name].default
