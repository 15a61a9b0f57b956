"""Strategies: every way to write one gives the same, and an error points at the mistake."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from support.strategies import genlm_strategies

from genlm.decoding.declaration import Kind
from genlm.decoding.kinds import ALL_FIELDS, KINDS
from genlm.decoding.kinds.shared import BAD_WORDS, LOGIT_BIAS, TOP_K
from genlm.decoding.kinds.standard import NUM_BEAMS
from genlm.decoding.strategy import Strategy, transformers_settings
from genlm.errors import SpecError, UsageError

EVERY_MISPLACED = [(kind, name) for kind in KINDS.values() for name in sorted(ALL_FIELDS.keys() - kind.fields.keys())]


@given(genlm_strategies())
def test_a_strategy_equals_its_parsed_spec(strategy: Strategy) -> None:
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


def test_strategies_with_different_names_are_equal() -> None:
    named = Strategy.parse("greedy", name="plain")
    assert named.name == "plain"
    assert named == Strategy.parse("greedy")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_has_a_value(kind: Kind) -> None:
    strategy = Strategy.of(kind.name)
    assert strategy.fields == {name: field.default for name, field in kind.fields.items()}
    assert strategy.samples is kind.samples


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
def test_a_spec_shows_the_main_field_and_fields_not_at_their_defaults(spec: str, shown: str) -> None:
    assert str(Strategy.parse(spec)) == shown


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
def test_a_list_is_always_written_the_same_way(spec: str, shown: str) -> None:
    assert str(Strategy.parse(spec)) == shown
    assert str(Strategy.parse(shown)) == shown


@pytest.mark.parametrize(("kind", "name"), EVERY_MISPLACED, ids=lambda part: getattr(part, "name", part))
def test_a_field_of_another_kind_is_refused(kind: Kind, name: str) -> None:
    with pytest.raises(UsageError, match=f"^field '{name}' does not apply to kind '{kind.name}'$") as caught:
        Strategy.of(kind.name, {name: 1})
    assert caught.value.hint == f"{kind.name} takes {', '.join(kind.fields)}"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UsageError, match="no field 'max_length' in any strategy"):
        Strategy.of("greedy", {"max_length": 9})


def test_an_unknown_kind_is_refused_and_the_kinds_are_listed() -> None:
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
def test_a_spec_error_points_at_the_mistake(spec: str, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        Strategy.parse(spec)
    error = caught.value
    assert error.spec == spec
    # If something is missing, the mark is one character wide.
    assert spec[error.start : error.end].strip(" ,:") == place
    assert error.end > error.start


def test_a_spec_error_points_at_the_second_of_two_equal_fields() -> None:
    with pytest.raises(SpecError, match="field 'top_p' is given twice") as caught:
        Strategy.parse("top-p:top_p=0.9,top_p=0.8")
    assert (caught.value.start, caught.value.end) == (16, 21)


def test_a_spec_error_has_the_message_and_hint_of_a_usage_error() -> None:
    with pytest.raises(UsageError) as plain:
        Strategy.of("greedy", {"top_k": 3})
    with pytest.raises(SpecError) as placed:
        Strategy.parse("greedy:top_k=3")
    assert (str(placed.value), placed.value.hint) == (str(plain.value), plain.value.hint)


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.samples])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy_with_the_same_penalties(kind: str, zero: float) -> None:
    strategy = Strategy.of(kind, {"temperature": zero, "repetition_penalty": 1.3})
    zero_kind = KINDS[kind].zero_temperature_kind
    assert strategy == Strategy.parse(f"{zero_kind}:repetition_penalty=1.3")
    assert Strategy.parse(f"{kind}:temperature={zero}") == Strategy.of(zero_kind)


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


def test_temperature_zero_does_not_hide_another_mistake() -> None:
    with pytest.raises(UsageError, match="top_k must be"):
        Strategy.of("top-k", {"temperature": 0, "top_k": 0})
    with pytest.raises(UsageError, match="'temperature' does not apply to kind 'beam'"):
        Strategy.of("beam", {"temperature": 0})
    with pytest.raises(UsageError, match="temperature must be"):
        Strategy.of("sample", {"temperature": False})


def test_a_negative_temperature_is_refused_with_a_range_that_includes_zero() -> None:
    with pytest.raises(UsageError, match=r"^temperature must be a number at least 0, not -1$"):
        Strategy.of("sample", {"temperature": -1})


def test_fields_are_read_by_their_declaration() -> None:
    strategy = Strategy.parse("top-k:top_k=7,bad_words=king|the queen,logit_bias=7:1;5:-2")
    assert strategy[TOP_K] == 7
    assert strategy[BAD_WORDS] == ("king", "the queen")
    assert strategy[LOGIT_BIAS] == ((5, -2.0), (7, 1.0))
    assert strategy.get(NUM_BEAMS) is None
    with pytest.raises(KeyError):
        strategy[NUM_BEAMS]


def test_json_has_lists_as_a_spec_writes_them() -> None:
    strategy = Strategy.parse("beam:bad_words=king|the queen,logit_bias=7:1;5:-2,early_stopping=true", name="mine")
    record = strategy.to_json()
    assert (record["name"], record["kind"], record["spec"]) == ("mine", "beam", strategy.spec)
    assert list(record["fields"]) == list(strategy.fields)
    assert record["fields"]["bad_words"] == "king|the queen"
    assert record["fields"]["logit_bias"] == "5:-2.0;7:1.0"
    assert record["fields"]["early_stopping"] is True


def test_as_given_has_every_given_field_and_changes_nothing_else() -> None:
    given, plain = Strategy.parse("contrastive:top_k=4,penalty_alpha=0.6"), Strategy.parse("contrastive")
    assert given.as_given == "contrastive:penalty_alpha=0.6,top_k=4"
    assert str(given) == given.spec == plain.spec == plain.as_given == "contrastive:penalty_alpha=0.6"
    assert given == plain
    assert hash(given) == hash(plain)
    assert given.to_json() == plain.to_json()


@given(genlm_strategies())
def test_as_given_can_be_parsed(strategy: Strategy) -> None:
    again = Strategy.parse(strategy.as_given)
    assert again == strategy
    assert again.as_given == strategy.as_given


@given(genlm_strategies())
def test_a_strategy_equals_the_one_read_from_its_json(strategy: Strategy) -> None:
    record = json.loads(json.dumps(strategy.to_json()))
    assert Strategy.of(record["kind"], record["fields"]) == strategy


def test_transformers_settings_leave_no_truncation_to_a_default() -> None:
    settings = transformers_settings(Strategy.parse("sample:temperature=0.5,logit_bias=7:1"))
    assert settings == {
        "do_sample": True,
        "num_beams": 1,
        "temperature": 0.5,
        "top_h": None,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "sequence_bias": [[[7], 1.0]],
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_new_tokens": 0,
    }


def test_transformers_settings_of_beams_have_no_sampling_fields() -> None:
    assert transformers_settings(Strategy.parse("beam:early_stopping=never")) == {
        "do_sample": False,
        "num_beams": 4,
        "length_penalty": 1.0,
        "early_stopping": "never",
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_new_tokens": 0,
    }


def test_strategies_need_no_torch() -> None:
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
