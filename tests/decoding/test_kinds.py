"""The declarations of the kinds: complete, consistent, and enough to run each kind."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name

import pytest

import genlm
from genlm.decoding.declaration import Kind, Processor
from genlm.decoding.kinds import ALL_FIELDS, KINDS
from genlm.decoding.kinds.shared import SHARED
from genlm.decoding.strategy import kind_from_fields


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_declaration_is_complete(kind: Kind) -> None:
    assert kind.summary
    assert kind.formula
    assert all(field.meaning for field in kind.fields.values())
    assert not kind.main or kind.main in kind.fields
    assert set(kind.selected_by) <= kind.fields.keys()
    assert kind.zero_temperature_kind in KINDS
    assert not kind.loop or callable(resolve_name(kind.loop))
    assert all(field.check(field.default) == field.default for field in kind.fields.values())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_has_one_declaration(kind: Kind) -> None:
    names = [
        field.name for part in kind.parameters for field in (part.fields if isinstance(part, Processor) else (part,))
    ]
    assert len(names) == len(set(names))
    assert kind.fields.keys() <= ALL_FIELDS.keys()


def test_shared_processors_are_off_by_default() -> None:
    for group in SHARED.values():
        for processor in group:
            assert processor.is_off({field.name: field.default for field in processor.fields})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_generates_with_its_defaults(tiny: Path, kind: str) -> None:
    made = genlm.load(str(tiny), device="cpu").generate("Once upon a time", strategy=kind, max_new_tokens=3, seed=1)
    assert made.completions[0].token_ids


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
        (["epsilon_cutoff", "typical_p"], "typical"),
        (["epsilon_cutoff"], "epsilon"),
        (["eta_cutoff", "temperature"], "eta"),
        (["num_beams"], "beam"),
        (["length_penalty"], "beam"),
        (["early_stopping"], "beam"),
        (["num_beams", "top_k"], "beam"),
    ],
)
def test_plain_fields_select_the_kind(fields: list[str], kind: str) -> None:
    assert kind_from_fields(dict.fromkeys(fields, 1)) == kind
