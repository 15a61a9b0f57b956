"""The table of strategy kinds: which fields each takes, their defaults and ranges, and the paper."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from genlm.decoding.words import BIAS_SEPARATOR, WORD_SEPARATOR, spell_biases, spell_words

Value: TypeAlias = bool | int | float | str
# What a field takes: a list may be given item by item.
Given: TypeAlias = Value | Sequence[str]


@dataclass(frozen=True)
class Number:
    """A field that takes a number of `type`, from `low` to `high`; an open end leaves the bound itself out."""

    type: type[int] | type[float]
    default: int | float
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def read(self, text: str) -> Value | None:
        """The value that `text` spells, or None where it spells none."""
        try:
            return self.type(text)
        except ValueError:
            return None

    def admits(self, value: object) -> bool:
        """Whether `value` is of the type, finite and within the range."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.type is int:
            return isinstance(value, int) and self._in_range(value)
        return -sys.float_info.max <= value <= sys.float_info.max and self._in_range(value)

    def _in_range(self, value: int | float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def normal(self, value: Any) -> Value:
        """An admitted value in the field's own type."""
        return self.type(value)

    @property
    def range(self) -> str:
        """What is admitted, in words."""
        noun = "a whole number" if self.type is int else "a number"
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"{'greater than' if self.low_open else 'at least'} {self.low:g}")
        if self.high < math.inf:
            bounds.append(f"{'less than' if self.high_open else 'at most'} {self.high:g}")
        return " ".join([noun, " and ".join(bounds)]).strip()


@dataclass(frozen=True)
class Choice:
    """A field that takes one of a few values, each spelled as its key."""

    choices: Mapping[str, Value]
    default: Value

    def read(self, text: str) -> Value | None:
        """The value that `text` spells, or None where it spells none."""
        return self.choices.get(text.lower())

    def admits(self, value: object) -> bool:
        """Whether `value` is one of the choices."""
        return any(value is choice or (isinstance(value, str) and value == choice) for choice in self.choices.values())

    def normal(self, value: Any) -> Value:
        """An admitted value as it is."""
        same: Value = value
        return same

    @property
    def range(self) -> str:
        """What is admitted, in words."""
        return "one of " + ", ".join(self.choices)


@dataclass(frozen=True)
class Text:
    """A field that takes a list, spelled as one text with `separator` between its items.

    `spell` gives the one spelling of what is given, a text or a list, or None where it is out of range; `range` is what
    is admitted, in words.
    """

    spell: Callable[[object], str | None]
    separator: str
    range: str
    default: str = ""

    def read(self, text: str) -> Value | None:
        """The value that `text` spells, or None where it spells none."""
        return self.spell(text)

    def admits(self, value: object) -> bool:
        """Whether `value` is such a list or its spelling."""
        return self.spell(value) is not None

    def normal(self, value: Any) -> Value:
        """An admitted value in its one spelling."""
        return self.spell(value) or ""

    def join(self, first: Given, second: Given) -> Given:
        """The two lists as one; what is no list stays what it is, for the range to refuse."""
        spelled = [self.spell(first), self.spell(second)]
        if None in spelled:
            return second if spelled[1] is None else first
        return self.separator.join(each for each in spelled if each)


Field: TypeAlias = Number | Choice | Text

TEMPERATURE = Number(float, 1.0, low=0, low_open=True)
TOP_K_OFF = Number(int, 0, low=0)
TOP_P_OFF = Number(float, 1.0, low=0, high=1, low_open=True)
LISTS: dict[str, Text] = {
    "logit_bias": Text(spell_biases, BIAS_SEPARATOR, "pairs ID:BIAS with ; between them, no ID twice"),
    "bad_words": Text(spell_words, WORD_SEPARATOR, "words with | between them"),
}
PENALTIES: dict[str, Field] = {
    "logit_bias": LISTS["logit_bias"],
    "repetition_penalty": Number(float, 1.0, low=0, low_open=True),
    "presence_penalty": Number(float, 0.0, low=-100, high=100),
    "frequency_penalty": Number(float, 0.0, low=-100, high=100),
    "dry_multiplier": Number(float, 0.0, low=0, high=100),
    "dry_base": Number(float, 1.75, low=1, high=100),
    "dry_allowed_length": Number(int, 2, low=1),
    "no_repeat_ngram_size": Number(int, 0, low=0),
    "bad_words": LISTS["bad_words"],
    "min_new_tokens": Number(int, 0, low=0),
}
# Every filter at the value at which it filters nothing, in the order in which they apply.
FILTERS_OFF: dict[str, Field] = {
    "top_n_sigma": Number(float, 0.0, low=0, high=1000),
    "top_h": Number(float, 0.0, low=0, high=1),
    "top_k": TOP_K_OFF,
    "top_p": TOP_P_OFF,
    "min_p": Number(float, 0.0, low=0, high=1),
    "typical_p": Number(float, 1.0, low=0, high=1, low_open=True),
    "epsilon_cutoff": Number(float, 0.0, low=0, high=1, high_open=True),
    "eta_cutoff": Number(float, 0.0, low=0, high=1, high_open=True),
}
XTC: dict[str, Field] = {
    "xtc_probability": Number(float, 0.0, low=0, high=1),
    "xtc_threshold": Number(float, 0.1, low=0, high=0.5, low_open=True),
}
BEAMS: dict[str, Field] = {
    "num_beams": Number(int, 4, low=2),
    # Beyond 50 a long text's length to that power is beyond every float.
    "length_penalty": Number(float, 1.0, low=-50, high=50),
    "early_stopping": Choice({"false": False, "true": True, "never": "never"}, False),
}

# What the values of several fields must be to each other: what is wrong with them, or None.
Rule: TypeAlias = Callable[[Mapping[str, Value]], str | None]


def groups_divide_beams(fields: Mapping[str, Value]) -> str | None:
    """Each group of a diverse beam search has as many beams as the others."""
    beams, groups = int(fields["num_beams"]), int(fields["num_beam_groups"])
    return f"num_beam_groups={groups} must divide num_beams={beams}" if beams % groups else None


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    `samples` tells a kind that draws its tokens from one that has no choice; `main` is the field that a spec
    always shows; `cold` is the kind that one which samples becomes at a temperature of 0; `rules` are what its fields
    must keep together.
    """

    name: str
    summary: str
    paper: str
    fields: Mapping[str, Field]
    samples: bool
    main: str = ""
    cold: str = "greedy"
    rules: tuple[Rule, ...] = ()


def _filtering(name: str, summary: str, paper: str, own: Mapping[str, Field]) -> Kind:
    """A kind that draws from what one filter leaves; every other filter may be added to it."""
    (main,) = own
    others = {key: field for key, field in FILTERS_OFF.items() if key != main}
    return Kind(
        name,
        summary,
        paper,
        {**own, **others, "temperature": TEMPERATURE, **XTC, **PENALTIES},
        samples=True,
        main=main,
    )


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in [
        Kind(
            "greedy",
            "the likeliest token at every step",
            "",
            {**PENALTIES},
            samples=False,
        ),
        Kind(
            "beam",
            "the num_beams likeliest sequences side by side, the best of them at the end",
            "Lowerre 1976; length penalty: Wu et al. 2016, arXiv:1609.08144",
            {**BEAMS, **PENALTIES},
            samples=False,
            main="num_beams",
        ),
        Kind(
            "sample",
            "a draw from the whole distribution",
            "",
            {"temperature": TEMPERATURE, **XTC, **PENALTIES},
            samples=True,
        ),
        _filtering(
            "top-k",
            "a draw from the top_k likeliest tokens",
            "Fan et al. 2018, arXiv:1805.04833",
            {"top_k": Number(int, 50, low=1)},
        ),
        _filtering(
            "top-p",
            "a draw from the fewest tokens that hold a probability of top_p together",
            "Holtzman et al. 2020, arXiv:1904.09751",
            {"top_p": Number(float, 0.9, low=0, high=1, low_open=True)},
        ),
        _filtering(
            "min-p",
            "a draw from the tokens at least min_p times as likely as the likeliest",
            "Nguyen et al. 2024, arXiv:2407.01082",
            {"min_p": Number(float, 0.05, low=0, high=1, low_open=True)},
        ),
        _filtering(
            "typical",
            "a draw from the tokens whose surprise is nearest the entropy, typical_p in all",
            "Meister et al. 2022, arXiv:2202.00666",
            {"typical_p": Number(float, 0.95, low=0, high=1, low_open=True)},
        ),
        _filtering(
            "epsilon",
            "a draw from the tokens of a probability of epsilon_cutoff or more",
            "Hewitt et al. 2022, arXiv:2210.15191",
            {"epsilon_cutoff": Number(float, 0.0006, low=0, high=1, low_open=True, high_open=True)},
        ),
        _filtering(
            "eta",
            "as epsilon, with a cutoff that falls where the distribution is flat",
            "Hewitt et al. 2022, arXiv:2210.15191",
            {"eta_cutoff": Number(float, 0.002, low=0, high=1, low_open=True, high_open=True)},
        ),
        _filtering(
            "top-h",
            "a draw from the likeliest tokens that hold the part top_h of the entropy",
            "Potraghloo et al. 2025, arXiv:2509.02510",
            {"top_h": Number(float, 0.4, low=0, high=1, low_open=True)},
        ),
        _filtering(
            "top-n-sigma",
            "a draw from the tokens within top_n_sigma standard deviations of the largest logit",
            "Tang et al. 2024, arXiv:2411.07641",
            {"top_n_sigma": Number(float, 1.0, low=0, high=1000, low_open=True)},
        ),
        Kind(
            "mirostat",
            "a draw that holds the surprise of the text at mirostat_tau bits a token (version 2)",
            "Basu et al. 2021, arXiv:2007.14966",
            {
                "mirostat_tau": Number(float, 5.0, low=0, high=100, low_open=True),
                "mirostat_eta": Number(float, 0.1, low=0, high=1, low_open=True),
                "temperature": TEMPERATURE,
                **PENALTIES,
            },
            samples=True,
            main="mirostat_tau",
        ),
        Kind(
            "diverse-beam",
            "beam search in num_beam_groups groups, each of which shuns the tokens that those before it take",
            "Vijayakumar et al. 2016, arXiv:1610.02424",
            {
                **BEAMS,
                "num_beam_groups": Number(int, 2, low=1),
                "diversity_penalty": Number(float, 0.5, low=0),
                **PENALTIES,
            },
            samples=False,
            main="num_beams",
            rules=(groups_divide_beams,),
        ),
        Kind(
            "beam-sample",
            "beam search whose continuations are drawn without replacement",
            "",
            {
                **BEAMS,
                # Scores of beams are compared with each other, so a smaller one would only overflow.
                "temperature": Number(float, 1.0, low=0.001),
                "top_k": TOP_K_OFF,
                "top_p": TOP_P_OFF,
                **PENALTIES,
            },
            samples=True,
            main="num_beams",
            cold="beam",
        ),
        Kind(
            "contrastive",
            "of the top_k likeliest tokens, the one that is likely and whose hidden state is unlike those before it",
            "Su et al. 2022, arXiv:2202.06417",
            {
                "penalty_alpha": Number(float, 0.6, low=0, high=1),
                "top_k": Number(int, 4, low=1),
                **PENALTIES,
            },
            samples=False,
            main="penalty_alpha",
        ),
        Kind(
            "dola",
            "the token that the last layer favours most over the layer that differs most from it",
            "Chuang et al. 2023, arXiv:2309.03883",
            {"dola_layers": Choice({"low": "low", "high": "high"}, "low"), **PENALTIES},
            samples=False,
            main="dola_layers",
        ),
    ]
}

# The fields that many kinds share, in the order in which they apply within and between the groups.
SHARED_FIELDS: dict[str, Mapping[str, Field]] = {
    "penalties": PENALTIES,
    "temperature": {"temperature": TEMPERATURE},
    "filters": FILTERS_OFF,
    "xtc": XTC,
}
ALL_FIELDS = frozenset(field for kind in KINDS.values() for field in kind.fields)
