"""Hypothesis strategies for genlm strategies: any kind, with any fields in range."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from genlm.decoding.declaration import Biases, Choice, Field, Kind, Words
from genlm.decoding.kinds import KINDS
from genlm.decoding.strategy import Strategy

WORDS = st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from(" ,=|;%:@\n"), min_size=1), max_size=4)
BIASES = st.dictionaries(st.integers(0, 10**6), st.floats(-1e6, 1e6), max_size=4)


def field_values(field: Field[Any]) -> st.SearchStrategy[Any]:
    """Return a Hypothesis strategy for the values of a field, in its own type."""
    values = field.values
    if isinstance(values, Choice):
        return st.sampled_from(list(values.choices.values()))
    if isinstance(values, Words):
        return WORDS.map(values.check)
    if isinstance(values, Biases):
        return BIASES.map(lambda pairs: values.check(list(pairs.items())))
    low = None if values.low == -math.inf else values.low
    high = None if values.high == math.inf else values.high
    if values.type is int:
        return st.integers(low, high)
    return st.floats(
        low,
        high,
        exclude_min=values.low_open,
        exclude_max=values.high_open,
        allow_nan=False,
        allow_infinity=False,
    )


@st.composite
def genlm_strategies(draw: st.DrawFn) -> Strategy:
    """Any strategy."""
    kind = draw(st.sampled_from(list(KINDS.values())))
    optional = {name: field_values(field) for name, field in kind.fields.items()}
    return Strategy.of(kind.name, fitting(kind, draw(st.fixed_dictionaries({}, optional=optional))))


def fitting(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, with others added or changed so that they fit together."""
    if "num_beam_groups" not in kind.fields:
        return fields
    groups = fields.get("num_beam_groups")
    if groups is None:
        return fields | {"num_beam_groups": fields.get("num_beams", 2)}
    return fields | {"num_beams": groups * min(fields.get("num_beams", 2), 5)}
