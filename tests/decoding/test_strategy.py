"""A strategy is data: every way to write one gives the same, and every mistake is named where it stands."""

from __future__ import annotations

import dataclasses
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import fitting, genlm_strategies, values

from genlm.decoding.kinds import ALL_FIELDS, KINDS, LISTS, Choice, Field, Kind, Number
from genlm.decoding.strategy import Strategy, kind_from_fields
from genlm.decoding.words import read_words
from genlm.errors import SpecError, UsageError

EVERY_FIELD = [(kind, name) for kind in KINDS.values() for name in kind.fields]
EVERY_MISPLACED = [(kind, name) for kind in KINDS.values() for name in sorted(ALL_FIELDS - kind.fields.keys())]


@given(genlm_strategies())
def test_a_strategy_is_what_its_spec_says(strategy: Strategy) -> None:
    again = Strategy.parse(str(strategy))
    assert again == strategy
    assert again.fields == strategy.fields
    assert [type(value) for value in again.fields.values()] == [type(value) for value in strategy.fields.values()]
    assert hash(again) == hash(strategy)
    assert again.spec == again.name == strategy.spec


@given(genlm_strategies())
def test_a_strategy_survives_pickling(strategy: Strategy) -> None:
    again = pickle.loads(pickle.dumps(strategy))
    assert again == strategy
    assert again.name == strategy.name


def test_a_strategy_cannot_be_changed() -> None:
    strategy = Strategy.parse("top-k:top_k=40")
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.kind = "greedy"  # type: ignore[misc]
    strategy.fields["top_k"] = 3
    assert strategy.fields["top_k"] == 40


def test_strategies_that_differ_in_a_value_are_different() -> None:
    specs = ["greedy", "top-k", "top-k:top_k=40", "top-k:top_k=40,temperature=0.7", "beam", "beam:early_stopping=true"]
    assert len({Strategy.parse(spec) for spec in specs}) == len(specs)


def test_a_name_is_kept_and_does_not_tell_strategies_apart() -> None:
    named = Strategy.parse("greedy", name="plain")
    assert named.name == "plain"
    assert named == Strategy.parse("greedy")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_is_resolved(kind: Kind) -> None:
    strategy = Strategy.of(kind.name)
    assert strategy.fields == {name: field.default for name, field in kind.fields.items()}
    assert strategy.samples is kind.samples


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_default_is_in_range_and_the_main_field_is_a_field(kind: Kind) -> None:
    assert all(field.admits(field.default) for field in kind.fields.values())
    assert not kind.main or kind.main in kind.fields


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("greedy", "greedy"),
        ("top-k", "top-k:top_k=50"),
        ("top-p:temperature=1", "top-p:top_p=0.9"),
        ("beam:early_stopping=TRUE", "beam:num_beams=4,early_stopping=true"),
        (" top-k : temperature = 7e-1 , top_k = 5 ", "top-k:top_k=5,temperature=0.7"),
        ("sample:no_repeat_ngram_size=3,temperature=1", "sample:no_repeat_ngram_size=3"),
    ],
)
def test_a_spec_shows_the_main_field_and_what_is_not_default(spec: str, shown: str) -> None:
    assert str(Strategy.parse(spec)) == shown


def out_of_range(field: Field) -> list[Any]:
    if field is LISTS["logit_bias"]:
        pairs = ["5", "5:", ":1", "-5:1", "5:nan", "5:inf", "5:1e7", "5:1;", "5:1;5:2", "5:1|6:2", "\u0665:1"]
        return [*pairs, ["5:1", ""], [5], 5, {"5": 1.0}, None]
    if field is LISTS["bad_words"]:
        return ["|", "a|", "a||b", "%FF", " ", "\udcff", ["a", ""], ["\udcff"], [1], 5, True, None]
    if isinstance(field, Choice):
        return ["perhaps", 0, 1, None]
    wrong: list[Any] = [math.nan, math.inf, -math.inf, True, "3", None]
    if field.low > -math.inf:
        wrong += [field.low if field.low_open else field.low - 1, math.nextafter(field.low, -math.inf)]
    if field.high < math.inf:
        wrong += [field.high if field.high_open else field.high + 1, math.nextafter(field.high, math.inf)]
    wrong += [1.5] if field.type is int else [10**400, -(10**400)]
    return wrong


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=lambda part: getattr(part, "name", part))
def test_a_value_out_of_range_is_refused_with_the_range(kind: Kind, name: str) -> None:
    field = kind.fields[name]
    for value in out_of_range(field):
        if name == "temperature" and value == 0:
            continue
        with pytest.raises(UsageError) as caught:
            Strategy.of(kind.name, {name: value})
        assert str(caught.value) == f"{name} must be {field.range}, not {value!r}"


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=lambda part: getattr(part, "name", part))
@given(data=st.data())
def test_every_value_in_range_is_taken_in_the_fields_own_type(kind: Kind, name: str, data: st.DataObject) -> None:
    field = kind.fields[name]
    value = data.draw(values(field))
    taken = Strategy.of(kind.name, fitting(kind, {name: value})).fields[name]
    assert taken == value
    assert type(taken) is (field.type if isinstance(field, Number) else type(value))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Number(int, 4, low=2), "a whole number at least 2"),
        (Number(float, 0.9, low=0, high=1, low_open=True), "a number greater than 0 and at most 1"),
        (Number(float, 0.1, low=0, high=1, high_open=True), "a number at least 0 and less than 1"),
        (Number(float, 1.0), "a number"),
        (LISTS["bad_words"], "words with | between them"),
        (LISTS["logit_bias"], "pairs ID:BIAS with ; between them, no ID twice"),
        (Choice({"false": False, "true": True, "never": "never"}, False), "one of false, true, never"),
    ],
)
def test_a_range_reads_as_words(field: Field, words: str) -> None:
    assert field.range == words


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("greedy:bad_words=king|the queen", "greedy:bad_words=king|the queen"),
        ("greedy:bad_words= king | the queen |king", "greedy:bad_words=king|the queen"),
        ("greedy:bad_words=%20king%2c,no_repeat_ngram_size=2", "greedy:no_repeat_ngram_size=2,bad_words=%20king%2C"),
        ("greedy:bad_words=50%", "greedy:bad_words=50%25"),
        ("greedy:bad_words=a%0Ab%1B", "greedy:bad_words=a%0Ab%1B"),
        ("greedy:logit_bias=262:-5;11:2", "greedy:logit_bias=11:2.0;262:-5.0"),
        ("greedy:logit_bias= 007 : 1e-7", "greedy:logit_bias=7:1e-07"),
    ],
)
def test_a_list_has_one_spelling(spec: str, shown: str) -> None:
    assert str(Strategy.parse(spec)) == shown
    assert str(Strategy.parse(shown)) == shown


NASTY = [",", "=", "|", ";", "%", "%2C", " a ", "  ", "\n", "\t", "\x1b[31m", "é", "狐", "\u2028", "a:b", "@"]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(NASTY)))
def test_any_words_come_back_from_a_spec_in_one_line(words: list[str]) -> None:
    strategy = Strategy.of("greedy", {"bad_words": words})
    again = Strategy.parse(str(strategy))
    assert again == strategy
    assert read_words(str(again.fields["bad_words"])) == tuple(dict.fromkeys(words))
    assert str(strategy).isprintable()


def test_lists_are_joined_and_a_wrong_one_is_left_to_be_refused() -> None:
    words, biases = LISTS["bad_words"], LISTS["logit_bias"]
    assert words.join("king|the%20", ["a, b"]) == "king|the%20|a%2C b"
    assert words.join("", ["king"]) == "king"
    assert words.join("king", [""]) == [""]
    assert biases.join("5:1", ["4:2"]) == "5:1.0;4:2.0"
    assert not biases.admits(biases.join("5:1", ["5:2"]))


def test_whole_numbers_of_any_size_are_taken() -> None:
    assert Strategy.parse(f"top-k:top_k={10**400}").fields["top_k"] == 10**400


@pytest.mark.parametrize(("kind", "name"), EVERY_MISPLACED, ids=lambda part: getattr(part, "name", part))
def test_a_field_of_another_kind_is_refused_naming_both(kind: Kind, name: str) -> None:
    with pytest.raises(UsageError, match=f"^field '{name}' does not apply to kind '{kind.name}'$") as caught:
        Strategy.of(kind.name, {name: 1})
    assert caught.value.hint == f"{kind.name} takes {', '.join(kind.fields)}"


def test_a_field_of_no_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="no field 'max_length' in any strategy"):
        Strategy.of("greedy", {"max_length": 9})


def test_an_unknown_kind_is_refused_with_the_kinds() -> None:
    with pytest.raises(UsageError, match="no strategy kind 'nucleus'") as caught:
        Strategy.of("nucleus")
    assert caught.value.hint == "the kinds are " + ", ".join(KINDS)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("", ""),
        (":top_k=3", ""),
        ("nucleus", "nucleus"),
        ("  nucleus:top_p=0.9", "nucleus"),
        ("top-k:", ""),
        ("top-k:top_k=3,", ""),
        ("top-k:top_k", "top_k"),
        ("top-k:top_k=", "top_k="),
        ("top-k: =3 ", "=3"),
        ("top-k:top_k=3,,temperature=1", ""),
        ("top-k:top_k=three", "three"),
        ("top-k:top_k= 0 ,temperature=1", "0"),
        ("top-k:temperature=1,top_k=2.5", "2.5"),
        ("top-k:top_k=4,num_beams=4", "num_beams"),
        ("top-k:top_k=4,max_length=4", "max_length"),
        ("top-p:top_p=0.9,top_p=0.8", "top_p"),
        ("beam:early_stopping=maybe", "maybe"),
        ("greedy:bad_words=a||b,min_new_tokens=1", "a||b"),
        ("greedy:logit_bias=262", "262"),
        ("sample:temperature=nan", "nan"),
        ("sample:temperature=-1", "-1"),
        ("greedy:temperature=0", "temperature"),
        ("top-k:top_k=4=5", "4=5"),
    ],
)
def test_a_spec_error_points_at_the_place(spec: str, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        Strategy.parse(spec)
    error = caught.value
    assert error.spec == spec
    # Where something is missing the mark is one wide.
    assert spec[error.start : error.end].strip(" ,:") == place
    assert error.end > error.start


def test_a_spec_error_points_at_the_second_of_two() -> None:
    with pytest.raises(SpecError, match="field 'top_p' is given twice") as caught:
        Strategy.parse("top-p:top_p=0.9,top_p=0.8")
    assert (caught.value.start, caught.value.end) == (16, 21)


def test_a_spec_error_says_what_a_usage_error_says() -> None:
    with pytest.raises(UsageError) as plain:
        Strategy.of("greedy", {"top_k": 3})
    with pytest.raises(SpecError) as placed:
        Strategy.parse("greedy:top_k=3")
    assert (str(placed.value), placed.value.hint) == (str(plain.value), plain.value.hint)


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.samples])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy_with_the_same_penalties(kind: str, zero: float) -> None:
    strategy = Strategy.of(kind, {"temperature": zero, "repetition_penalty": 1.3})
    cold = KINDS[kind].cold
    assert strategy == Strategy.parse(f"{cold}:repetition_penalty=1.3")
    assert Strategy.parse(f"{kind}:temperature={zero}") == Strategy.of(cold)


def test_temperature_zero_with_beams_is_beam_search_with_the_same_beams() -> None:
    strategy = Strategy.parse("beam-sample:num_beams=7,length_penalty=2,top_k=9,temperature=0")
    assert strategy == Strategy.parse("beam:num_beams=7,length_penalty=2")


def test_groups_that_do_not_divide_the_beams_are_refused() -> None:
    spec = "diverse-beam:num_beams=5,num_beam_groups=3"
    with pytest.raises(SpecError, match=r"^num_beam_groups=3 must divide num_beams=5$") as caught:
        Strategy.parse(spec)
    assert spec[caught.value.start : caught.value.end] == spec
    with pytest.raises(UsageError, match="num_beam_groups=2 must divide num_beams=3"):
        Strategy.of("diverse-beam", {"num_beams": 3})
    with pytest.raises(UsageError, match="num_beam_groups=8 must divide num_beams=4"):
        Strategy.of("diverse-beam", {"num_beam_groups": 8})


def test_temperature_zero_hides_no_other_mistake() -> None:
    with pytest.raises(UsageError, match="top_k must be"):
        Strategy.of("top-k", {"temperature": 0, "top_k": 0})
    with pytest.raises(UsageError, match="'temperature' does not apply to kind 'beam'"):
        Strategy.of("beam", {"temperature": 0})
    with pytest.raises(UsageError, match="temperature must be"):
        Strategy.of("sample", {"temperature": False})


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ([], "top-p"),
        (["temperature"], "top-p"),
        (["repetition_penalty"], "top-p"),
        (["top_k"], "top-k"),
        (["top_k", "temperature"], "top-k"),
        (["top_p", "top_k"], "top-p"),
        (["min_p", "top_p"], "min-p"),
        (["typical_p", "top_k"], "typical"),
        (["epsilon_cutoff"], "epsilon"),
        (["eta_cutoff", "temperature"], "eta"),
        (["num_beams"], "beam"),
        (["length_penalty"], "beam"),
        (["num_beams", "top_k"], "beam"),
    ],
)
def test_the_kind_follows_from_plain_fields(fields: list[str], kind: str) -> None:
    assert kind_from_fields(dict.fromkeys(fields, 1)) == kind


def test_strategies_come_without_torch() -> None:
    code = (
        "import sys, genlm, genlm.decoding.presets, genlm.tasks.generate, genlm.api\n"
        "genlm.Strategy.parse('beam:num_beams=3')\n"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_every_preset_of_the_sample_file_is_a_strategy() -> None:
    from genlm.decoding.presets import read_presets

    path = Path(__file__).parents[2] / "prompts" / "strategies.toml"
    presets = {name: preset.strategy for name, preset in read_presets(path).items()}
    assert presets
    assert all(strategy.name == name for name, strategy in presets.items())
    assert {strategy.kind for strategy in presets.values()} <= KINDS.keys()
