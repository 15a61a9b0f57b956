"""Fields: their ranges, and the values that they accept as text and from Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import field_values, fitting

from genlm.decoding.declaration import Biases, Choice, Field, Kind, Number, ValueType, Words
from genlm.decoding.kinds import KINDS
from genlm.decoding.kinds.shared import BAD_WORDS, LOGIT_BIAS
from genlm.decoding.strategy import Strategy
from genlm.errors import UsageError, show

EVERY_FIELD = [
    pytest.param(kind, field, id=f"{kind.name}-{field.name}")
    for kind in KINDS.values()
    for field in kind.fields.values()
]
# The kinds that declare a field with the same range.
KINDS_BY_RANGE: dict[tuple[str, str], list[Kind]] = {}
for _kind in KINDS.values():
    for _field in _kind.fields.values():
        KINDS_BY_RANGE.setdefault((_field.name, _field.values.range), []).append(_kind)
NASTY = [",", "=", "|", ";", "%", "%2C", " a ", "  ", "\n", "\t", "\x1b[31m", "é", "狐", "\u2028", "a:b", "@"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (Number(int, 2), "a whole number at least 2"),
        (Number(float, 0, 1, low_open=True), "a number greater than 0 and at most 1"),
        (Number(float, 0, 1, high_open=True), "a number at least 0 and less than 1"),
        (Number(float, 0, low_open=True, or_zero=True), "a number at least 0"),
        (Number(float, 0.001, or_zero=True), "a number at least 0.001, or 0"),
        (Number(float), "a number"),
        (Words(), "words separated by |"),
        (Biases(), "ID:BIAS pairs separated by ;, each ID once"),
        (Choice({"false": False, "true": True, "never": "never"}), "one of false, true, never"),
    ],
)
def test_a_range_in_words(values: ValueType[Any], words: str) -> None:
    assert values.range == words


def out_of_range(values: Any) -> list[Any]:
    if isinstance(values, Biases):
        pairs = ["5", "5:", ":1", "-5:1", "5:nan", "5:inf", "5:1e7", "5:1;", "5:1;5:2", "5:1|6:2", "\u0665:1"]
        tuples = [
            ((5, 1.0), (5, 2.0)),
            ((-5, 1.0),),
            ((5, math.nan),),
            ((5, 1e7),),
            ((True, 1.0),),
            ((5, True),),
            (5, 1.0),
        ]
        return [*pairs, *tuples, ["5:1", ""], [5], 5, {"5": 1.0}, None]
    if isinstance(values, Words):
        return ["|", "a|", "a||b", "%FF", " ", "\udcff", ["a", ""], ["\udcff"], [1], 5, True, None]
    if isinstance(values, Choice):
        return ["perhaps", 0, 1, None]
    wrong: list[Any] = [math.nan, math.inf, -math.inf, True, "3", None]
    if values.low > -math.inf:
        wrong += [values.low if values.low_open else values.low - 1, math.nextafter(values.low, -math.inf)]
    if values.high < math.inf:
        wrong += [values.high if values.high_open else values.high + 1, math.nextafter(values.high, math.inf)]
    wrong += [1.5] if values.type is int else [10**400, -(10**400)]
    return [value for value in wrong if not (values.or_zero and value == 0)]


@pytest.mark.parametrize(("kind", "field"), EVERY_FIELD)
def test_a_value_out_of_range_is_refused_with_the_range(kind: Kind, field: Field[Any]) -> None:
    for value in out_of_range(field.values):
        with pytest.raises(UsageError) as caught:
            Strategy.of(kind.name, {field.name: value})
        assert str(caught.value) == f"{field.name} must be {field.values.range}, not {show(value)}"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [pytest.param(name, kinds, id=f"{name}: {words}") for (name, words), kinds in KINDS_BY_RANGE.items()],
)
@given(data=st.data())
def test_a_value_in_range_is_accepted_in_the_fields_own_type(name: str, kinds: list[Kind], data: st.DataObject) -> None:
    value = data.draw(field_values(kinds[0].fields[name]))
    for kind in kinds:
        field = kind.fields[name]
        taken = Strategy.of(kind.name, fitting(kind, {name: value}))[field]
        assert taken == value, kind.name
        assert type(taken) is (field.values.type if isinstance(field.values, Number) else type(value)), kind.name


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(NASTY)))
def test_any_words_survive_a_spec_on_one_line(words: list[str]) -> None:
    strategy = Strategy.of("greedy", {"bad_words": words})
    again = Strategy.parse(str(strategy))
    assert again == strategy
    assert again[BAD_WORDS] == tuple(dict.fromkeys(words))
    assert str(strategy).isprintable()


@pytest.mark.parametrize("given", ["7:1;5:-2.5", ["7:1", "5:-2.5"], ["7:1;5:-2.5"], [(7, 1), (5, -2.5)]])
def test_biases_are_accepted_as_text_and_as_pairs(given: Any) -> None:
    assert Strategy.of("greedy", {"logit_bias": given})[LOGIT_BIAS] == ((5, -2.5), (7, 1.0))


def test_lists_are_joined_and_an_invalid_one_is_left_to_be_refused() -> None:
    assert BAD_WORDS.join("king|the%20", ["a, b"]) == "king|the%20|a%2C b"
    assert BAD_WORDS.join("", ["king"]) == "king"
    assert BAD_WORDS.join("king", [""]) == [""]
    assert LOGIT_BIAS.join(((5, 1.0),), ["4:2"]) == "5:1.0;4:2.0"
    with pytest.raises(UsageError, match="each ID once"):
        LOGIT_BIAS.check(LOGIT_BIAS.join("5:1", ["5:2"]))


def test_whole_numbers_of_any_size_are_accepted() -> None:
    assert Strategy.parse(f"top-k:top_k={10**400}").fields["top_k"] == 10**400


def test_a_description_says_how_to_turn_a_field_off_if_its_range_allows_that() -> None:
    assert KINDS["top-p"].fields["top_k"].description.endswith("; 0 turns it off")
    assert KINDS["top-k"].fields["top_k"].description == KINDS["top-k"].fields["top_k"].meaning
    assert KINDS["greedy"].fields["bad_words"].description.endswith("; empty turns it off")


def test_a_field_that_admits_zero_says_so() -> None:
    with pytest.raises(UsageError, match=r"^temperature must be a number at least 0, not -1$"):
        Strategy.of("sample", {"temperature": -1})
    assert Strategy.of("sample", {"temperature": 0}).kind == "greedy"


def test_a_whole_number_that_python_cannot_write_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^top_k must be a whole number at least 1, not a number of thousands of digits$"
    ):
        Strategy.of("top-k", {"top_k": 10**5000})


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(UsageError) as caught:
        Strategy.parse("top-k:top_k=" + "1" * 100_000)
    assert str(caught.value) == f"top_k must be a whole number at least 1, not '{'1' * 59}…"
