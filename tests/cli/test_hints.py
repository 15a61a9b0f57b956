"""Hints that name options are added on the command line, and nowhere below it."""

from __future__ import annotations

from genlm.cli.hints import HINTS, hint_of
from genlm.errors import GenlmError, InputError


def test_an_error_without_a_code_keeps_its_own_hint() -> None:
    assert hint_of(GenlmError("wrong")) is None
    assert hint_of(GenlmError("wrong", hint="do this")) == "do this"


def test_a_code_adds_the_option_that_helps() -> None:
    assert hint_of(InputError("too long", code="prompt-too-long")) == HINTS["prompt-too-long"]
    error = InputError("too long", hint="the last 9 tokens fit", code="prompt-too-long")
    assert hint_of(error) == f"the last 9 tokens fit; {HINTS['prompt-too-long']}"


def test_an_unknown_code_adds_nothing() -> None:
    assert hint_of(GenlmError("wrong", hint="do this", code="of another version")) == "do this"
