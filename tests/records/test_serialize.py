"""Records as JSON and back, and errors about wrong values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from genlm.decoding.completion import Alternative
from genlm.records.serialize import as_line, as_object, from_builtins, from_line, parse, to_builtins


@dataclass(frozen=True)
class Inner:
    count: int
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    id: str | int
    inner: tuple[Inner, ...]
    anything: dict[str, Any]


VALUES: dict[str, Any] = {"id": 3, "inner": [{"count": 1, "share": 0.1}], "anything": {"bytes": [1, 2], "n": 10**30}}


def test_a_record_survives_json() -> None:
    record = from_builtins(Outer, VALUES)
    assert record == Outer(3, (Inner(1, 0.1),), VALUES["anything"])
    assert json.loads(as_line(to_builtins(record))) == VALUES
    assert list(to_builtins(record)) == list(VALUES)
    assert from_line(Outer, as_line(VALUES)) == record
    assert json.loads(as_object(VALUES)) == VALUES


def test_a_whole_number_is_read_as_a_float_if_the_field_is_one() -> None:
    record = from_builtins(Inner, {"count": 1, "share": 2})
    assert isinstance(record.share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "id: expected int | str, got null"),
        ({"inner": [{"count": 1}, {"count": True}]}, "inner[1].count: expected int, got bool"),
        ({"inner": [{"count": 1}, {}]}, "inner[1].count is missing"),
        ({"inner": [3]}, "inner[0]: expected object, got int"),
        ({"anything": []}, "anything: expected object, got array"),
    ],
)
def test_an_error_names_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_builtins(Outer, VALUES | change)
    assert str(caught.value) == message
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_line(Outer, json.dumps(VALUES | change))
    assert str(caught.value) == message


def test_an_error_at_the_top_has_no_place() -> None:
    with pytest.raises(ValueError, match=r"^expected object, got array$"):
        from_builtins(Outer, [])
    with pytest.raises(ValueError, match=r"^inner is missing$"):
        from_builtins(Outer, {"id": 1})


def test_bytes_of_a_token_are_a_list_of_numbers() -> None:
    token = Alternative(5, "\ufffd", 0.5, b"\xf0\x9f")
    text = as_line(to_builtins(token))
    assert json.loads(text)["bytes"] == [0xF0, 0x9F]
    assert from_builtins(Alternative, parse(text)) == token
    for wrong in ([300], ["a"], [-1]):
        with pytest.raises(ValueError, match=r"^bytes: expected bytes | null, got array$"):
            from_builtins(Alternative, parse(json.dumps({"id": 5, "text": "", "probability": 0.5, "bytes": wrong})))


@pytest.mark.parametrize("line", [b"", b"nonsense", b"\xff", b"[" * 100_000, b'{"id": 1', b"3"])
def test_a_line_that_is_not_a_record_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_line(Outer, line)


def test_lone_surrogates_are_kept() -> None:
    values = VALUES | {"anything": {"\ud800": "\udfff"}}
    line = as_line(values)
    assert line.isascii()
    assert from_line(Outer, line).anything == values["anything"]


@pytest.mark.parametrize("text", ["\x7f", "\x1b[31m", "é\u202e", "\x9b", "\u2028", "plain", "é"])
def test_json_controls_no_terminal(text: str) -> None:
    line = as_line({"text": text})
    assert json.loads(line)["text"] == text
    assert not set("\x1b\x7f\x9b\u202e\u2028") & set(line)
