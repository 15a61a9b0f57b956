"""`genlm strategies` lists and explains every kind from its declaration."""

from __future__ import annotations

import json
import re

import pytest
from support.driving import call

from genlm.decoding.kinds import KINDS
from genlm.decoding.strategy import Strategy


def test_the_list_has_every_kind_with_its_summary_and_paper() -> None:
    done = call("strategies")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    for kind in KINDS.values():
        assert f"\n{kind.name}\n" in f"\n{done.out}"
        assert kind.summary in text
        assert kind.paper in text


def test_the_list_has_every_field_of_every_kind_with_default_and_range() -> None:
    out = call("strategies").out
    for kind in KINDS.values():
        own, also = re.search(rf"^{kind.name}\n(.*?)also takes: (.*?)\n", out, re.M | re.S).groups()  # type: ignore[union-attr]
        shared = "".join(
            re.search(rf"^shared: {group}\n(.*?)\n\n", out, re.M | re.S)[1] + "\n"  # type: ignore[index]
            for group in also.split(", ")
        )
        for name, field in kind.fields.items():
            default = field.format(field.default)
            pattern = rf"^ +{name}={re.escape(default)} +{re.escape(field.values.range)}$"
            assert re.search(pattern, own + shared, re.M), name


def test_nothing_is_wider_than_a_terminal() -> None:
    for out in (call("strategies").out, *(call("strategies", "show", kind).out for kind in KINDS)):
        assert max(map(len, out.splitlines())) <= 80
        assert "\x1b" not in out


@pytest.mark.parametrize("kind", KINDS)
def test_show_explains_a_kind(kind: str) -> None:
    done = call("strategies", "show", kind)
    text = " ".join(done.out.split())
    declared = KINDS[kind]
    assert (done.code, done.err) == (0, "")
    assert declared.paper in text
    assert " ".join(declared.formula.split()) in text
    for name, field in declared.fields.items():
        assert f" {name}={field.format(field.default)} {field.values.range} {field.description}" in text
    example = done.out.rstrip().rsplit(" ", 1)[1]
    assert Strategy.parse(example) == Strategy.of(kind)


def test_json_has_every_kind() -> None:
    listed = json.loads(call("strategies", "--format", "json").out)["strategies"]
    assert [each["kind"] for each in listed] == list(KINDS)
    for record in listed:
        assert json.loads(call("strategies", "show", record["kind"], "--format", "json").out) == record
        kind = KINDS[record["kind"]]
        assert [field["name"] for field in record["fields"]] == list(kind.fields)
        defaults = [field.values.to_json(field.default) for field in kind.fields.values()]
        assert [field["default"] for field in record["fields"]] == defaults
        assert record["formula"] == kind.formula


def test_json_gives_the_bounds() -> None:
    record = json.loads(call("strategies", "show", "eta", "--format", "json").out)
    cutoff = record["fields"][0]
    assert (cutoff["low"], cutoff["high"], cutoff["low_open"], cutoff["high_open"]) == (0, 1, True, True)
    (penalty,) = (field for field in record["fields"] if field["name"] == "repetition_penalty")
    assert (penalty["low"], penalty["high"], penalty["type"]) == (0, None, "float")


def test_the_format_may_precede_show() -> None:
    assert call("strategies", "--format", "json", "show", "top-k").out.startswith("{")


def test_an_unknown_kind_is_wrong_usage() -> None:
    done = call("strategies", "show", "nucleus")
    assert (done.code, done.out) == (2, "")
    assert done.error() == "no strategy kind 'nucleus'"
    assert done.hint() == f"the kinds are {', '.join(KINDS)}"
