"""Deterministic decoding: every sequence by itself, one row and one token per step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import genlm
from genlm.model.gpt2 import GPT2Cache

PROMPT = "Once upon a time"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_sample_has_the_same_bits_alone_and_among_others(tiny: Path, dtype: str) -> None:
    lm = genlm.load(str(tiny), device="cpu", dtype=dtype)  # type: ignore[arg-type]
    options = {"strategy": "sample", "max_new_tokens": 15, "seed": 3, "deterministic": True}
    alone = lm.generate(PROMPT, **options)  # type: ignore[arg-type]
    among = lm.generate(PROMPT, num_return_sequences=7, **options)  # type: ignore[arg-type]
    assert among.deterministic
    assert len({completion.token_ids for completion in among.completions}) == 7
    # No tolerance.
    assert among.completions[0] == alone.completions[0]


@pytest.mark.parametrize("spec", ["greedy", "top-p"])
def test_every_step_has_one_row_and_one_token(tiny: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    shapes = []
    step = GPT2Cache.step

    def recorded(cache: GPT2Cache, ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return step(cache, ids)

    monkeypatch.setattr(GPT2Cache, "step", recorded)
    monkeypatch.setattr(GPT2Cache, "extend", lambda *_: pytest.fail("several tokens at once"))
    lm = genlm.load(str(tiny), device="cpu", dtype="bfloat16")
    lm.generate(
        "fox fox fox fox fox fox",
        strategy=spec,
        max_new_tokens=10,
        num_return_sequences=1 if spec == "greedy" else 3,
        seed=1,
        deterministic=True,
    )
    assert set(shapes) == {(1,)}


def test_it_does_not_change_beam_search(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    plain, alone = (
        lm.generate(PROMPT, strategy="beam", max_new_tokens=8, deterministic=each) for each in (False, True)
    )
    assert plain.completions == alone.completions
