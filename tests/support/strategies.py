"""Hypothesis strategies that make genlm strategies: any kind, any fields within their ranges."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from genlm.decoding.kinds import KINDS, LISTS, Choice, Field, Kind, Text
from genlm.decoding.strategy import Strategy

WORDS = st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from(" ,=|;%:@\n"), min_size=1), max_size=4)
BIASES = st.dictionaries(st.integers(0, 10**6), st.floats(-1e6, 1e6), max_size=4)


def values(field: Field) -> st.SearchStrategy[Any]:
    """Any value that the field admits."""
    if isinstance(field, Choice):
        return st.sampled_from(list(field.choices.values()))
    if isinstance(field, Text):
        biases = BIASES.map(lambda pairs: [f"{token}:{bias!r}" for token, bias in pairs.items()])
        return (biases if field is LISTS["logit_bias"] else WORDS).map(field.normal)
    low = None if field.low == -math.inf else field.low
    high = None if field.high == math.inf else field.high
    if field.type is int:
        return st.integers(low, high)
    return st.floats(
        low,
        high,
        exclude_min=field.low_open,
        exclude_max=field.high_open,
        allow_nan=False,
        allow_infinity=False,
    )


@st.composite
def genlm_strategies(draw: st.DrawFn) -> Strategy:
    """Any strategy."""
    kind = draw(st.sampled_from(list(KINDS.values())))
    optional = {name: values(field) for name, field in kind.fields.items()}
    return Strategy.of(kind.name, fitting(kind, draw(st.fixed_dictionaries({}, optional=optional))))


def fitting(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with others beside them, or changed, so that they go together."""
    if "num_beam_groups" not in kind.fields:
        return fields
    groups = fields.get("num_beam_groups")
    if groups is None:
        return fields | {"num_beam_groups": fields.get("num_beams", 2)}
    return fields | {"num_beams": groups * min(fields.get("num_beams", 2), 5)}
