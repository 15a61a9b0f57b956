"""Sweeps of a strategy's fields: how they are written, and the combinations that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.driving import call

from genlm.cli.compare import choose_contenders
from genlm.decoding.grid import axes_of, check_axes, crossed, read_axis
from genlm.errors import SpecError, UsageError


def specs(*given_specs: str, grid: list[str], presets: Path | None = None) -> list[str]:
    return [each.strategy.spec for each in choose_contenders(given_specs, presets, grid, lambda _: None)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("top_p=0.8,0.9", (0.8, 0.9)),
        (" top_p = 0.8 , 0.9 ", (0.8, 0.9)),
        ("top_p=0.5..0.9..0.1", (0.5, 0.6, 0.7, 0.8, 0.9)),
        ("top_k=10..50..20", (10, 30, 50)),
        ("top_k=10..55..20", (10, 30, 50)),
        ("top_k=5..5..1", (5,)),
        ("temperature=1..0.5..-0.25", (1.0, 0.75, 0.5)),
        ("presence_penalty=-1..1..1", (-1.0, 0.0, 1.0)),
        ("top_k=1,10..30..10,100", (1, 10, 20, 30, 100)),
        ("top_k=5,5", (5,)),
        ("early_stopping=true,never", (True, "never")),
        ("top_p=1e-1..3e-1..1e-1", (0.1, 0.2, 0.3)),
        ("bad_words=king|queen,king", ("king|queen", "king")),
    ],
)
def test_an_axis_has_a_field_and_its_values(text: str, values: tuple[object, ...]) -> None:
    axis = read_axis(text)
    assert axis.field == text.partition("=")[0].strip()
    assert axis.values == values
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@given(st.integers(-50, 50), st.integers(1, 20), st.integers(1, 9))
def test_a_range_equals_pythons_with_its_end(first: int, count: int, step: int) -> None:
    last = first + (count - 1) * step
    assert read_axis(f"presence_penalty={first}..{last}..{step}").values == tuple(
        float(number) for number in range(first, last + 1, step)
    )


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("top_p", "top_p", "expected FIELD="),
        ("top_p=", "top_p=", "expected FIELD="),
        ("=1", "=1", "expected FIELD="),
        ("topp=0.5,0.6", "topp", "no field 'topp'"),
        ("top_k=1,two", "two", "top_k must be a whole number at least 1, not 'two'"),
        ("top_k=1,,2", ",", "expected a value"),
        ("top_k=1..5..0.5", "1..5..0.5", "not '1.5'"),
        ("top_k=1..5..0", "1..5..0", "steps of 0 never lead from 1 to 5"),
        ("top_k=1..5..-1", "1..5..-1", "steps of -1 never"),
        ("top_k=a..b..c", "a..b..c", "FIRST..LAST..STEP"),
        ("top_p=0..inf..1", "0..inf..1", "FIRST..LAST..STEP"),
        ("top_p=0..1..0.000001", "0..1..0.000001", "1,000,001 values"),
    ],
)
def test_an_error_points_at_the_mistake(text: str, place: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")) as caught:
        read_axis(text)
    assert caught.value.spec[caught.value.start : caught.value.end] == place


def test_the_last_axis_varies_fastest() -> None:
    axes = [read_axis("top_p=0.8,0.9"), read_axis("temperature=0.7,1")]
    assert [tuple(fields.values()) for fields in crossed(axes)] == [(0.8, 0.7), (0.8, 1.0), (0.9, 0.7), (0.9, 1.0)]
    assert list(crossed([])) == [{}]


def test_a_kind_is_swept_only_by_axes_of_its_fields() -> None:
    axes = [read_axis("num_beams=2,4"), read_axis("top_p=0.5,0.6")]
    assert axes_of(axes, "beam") == axes[:1]
    assert axes_of(axes, "top-p") == axes[1:]
    assert axes_of(axes, "greedy") == []


def test_a_field_swept_twice_and_a_grid_too_large_are_refused() -> None:
    with pytest.raises(UsageError, match="top_p is swept twice"):
        check_axes([read_axis("top_p=0.5"), read_axis("top_p=0.6")])
    with pytest.raises(UsageError, match="2,500 combinations"):
        check_axes([read_axis("top_k=1..50..1"), read_axis("top_p=0.01..0.5..0.01")])


def test_a_grid_alone_selects_the_kind() -> None:
    assert specs(grid=["top_p=0.8,0.9"]) == ["top-p:top_p=0.8", "top-p:top_p=0.9"]
    assert specs(grid=["num_beams=2,3"]) == ["beam:num_beams=2", "beam:num_beams=3"]


def test_each_strategy_is_swept_by_the_axes_that_apply_to_it() -> None:
    found = specs("greedy", "beam", "top-p", grid=["top_p=0.5,0.6", "num_beams=2,3"])
    assert found == ["greedy", "beam:num_beams=2", "beam:num_beams=3", "top-p:top_p=0.5", "top-p:top_p=0.6"]


def test_a_field_of_no_strategy_is_refused() -> None:
    with pytest.raises(UsageError, match="'num_beams' applies to none"):
        specs("greedy", "top-p", grid=["num_beams=2,3"])


def test_a_field_in_a_spec_and_in_the_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="top_p is given twice"):
        specs("top-p:top_p=0.9", grid=["top_p=0.5,0.6"])


def test_a_preset_can_be_swept(tmp_path: Path) -> None:
    presets = tmp_path / "presets.toml"
    presets.write_text('[mine]\nkind = "top-p"\ntop_p = 0.9\n')
    assert specs("@mine", grid=["top_p=0.5", "temperature=0.7"], presets=presets) == ["top-p:top_p=0.5,temperature=0.7"]
    (plain,) = choose_contenders(["@mine"], presets, [], lambda _: None)
    assert (plain.strategy.name, plain.swept) == ("mine", {})


def test_equal_strategies_are_compared_once() -> None:
    assert specs("top-p", "top-p:top_p=0.9", "greedy", grid=[]) == ["top-p:top_p=0.9", "greedy"]


def test_the_default_is_the_four_best_known_kinds() -> None:
    assert specs(grid=[]) == ["greedy", "beam:num_beams=4", "top-k:top_k=50", "top-p:top_p=0.9"]


def test_a_value_out_of_range_is_refused_before_any_model_is_loaded() -> None:
    done = call("compare", "Once", "-m", "nowhere", "--grid", "top_p=0.5,1.5")
    assert done.code == 2
    assert done.error() == "top_p must be a number greater than 0 and at most 1, not 1.5"


def test_a_wrong_grid_is_underlined() -> None:
    done = call("compare", "Once", "-m", "nowhere", "--grid", "top_k=1,two")
    assert done.code == 2
    assert "  top_k=1,two\n          ^^^\n" in done.err
