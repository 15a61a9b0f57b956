"""The default settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genlm.errors import UsageError
from genlm.tasks.train.data import Texts, TextSource
from genlm.tasks.train.settings import SIZES, choose_recipe, choose_shape
from genlm.tasks.train.start import TrainJob, TrainRequest, resolve


def recipe(num_bytes: int, held_bytes: int = 0, *, is_tuning: bool = False, **given: Any) -> Any:
    return choose_recipe(num_bytes, held_bytes, 256, is_tuning=is_tuning, given=given)


@pytest.mark.parametrize(
    ("num_bytes", "size"), [(20, "tiny"), (9_999, "tiny"), (10_000, "small"), (1_000_000, "medium")]
)
def test_a_larger_corpus_has_a_larger_model(num_bytes: int, size: str) -> None:
    assert choose_shape(num_bytes, None, {}) == SIZES[size]


def test_a_small_corpus_has_no_dropout() -> None:
    assert [recipe(size).dropout for size in (20, 20_000)] == [0.0, 0.1]


def test_numbers_change_parts_of_a_size() -> None:
    shape = choose_shape(20, "small", {"n_layer": 1, "n_positions": 32})
    assert (shape.n_layer, shape.n_positions, shape.n_embd) == (1, 32, 128)


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (64, 1), (128, 2), (192, 3), (200, 2), (131, 1), (768, 12)])
def test_the_default_heads_divide_the_width(width: int, heads: int) -> None:
    assert choose_shape(20, None, {"n_embd": width}).n_head == heads


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(UsageError, match="no size 'huge'"):
        choose_shape(20, "huge", {})


def test_minutes_alone_are_the_only_limit() -> None:
    assert recipe(20, max_minutes=5).max_steps is None
    assert recipe(20, max_minutes=5, max_steps=7).max_steps == 7


def test_an_evaluation_takes_no_more_tokens_than_the_steps_before_it() -> None:
    assert recipe(10**7, 0, max_steps=1200).eval_every == 100
    # 60,000 bytes are about 20,000 tokens, and a step of 2 rows has 512.
    assert recipe(10**6, 60_000, max_steps=60, batch_size=2).eval_every == 40
    assert recipe(10**6, 60_000, max_steps=60, batch_size=2, eval_every=3).eval_every == 3


def test_a_base_model_has_a_lower_rate_and_its_own_dropout() -> None:
    tuning = recipe(20_000, is_tuning=True)
    assert tuning.learning_rate < recipe(20_000).learning_rate
    assert tuning.dropout is None


def job(**asked: Any) -> TrainJob:
    return resolve(TrainRequest(TextSource(("corpus.txt",)), device="cpu", **asked), Texts(("the fox",), (), 1, "line"))


def test_a_base_model_has_its_own_size(tiny: Path) -> None:
    found = job(base=str(tiny))
    assert (found.shape, found.context, found.save_dtype) == (None, 64, "float32")
    assert job(base=str(tiny), shape={"n_positions": 16}).context == 16


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"shape": {"n_layer": 2}}, "n_layer cannot be set: the base model .* has its own"),
        ({"size": "small"}, "size cannot be set: the base model .* has its own"),
        ({"tokenizer": "char"}, "tokenizer cannot be set: the base model .* has its own"),
        ({"shape": {"n_positions": 65}}, "n_positions must be between 2 and 64, the context of .*, not 65"),
    ],
)
def test_the_size_of_a_base_model_cannot_be_set(asked: dict[str, Any], message: str, tiny: Path) -> None:
    with pytest.raises(UsageError, match=message):
        job(base=str(tiny), **asked)


def test_the_size_of_an_existing_tokenizer_cannot_be_set(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"vocab_size cannot be set: the tokenizer .* has its own size"):
        job(tokenizer=str(tiny), shape={"vocab_size": 300})


@pytest.mark.parametrize("name", ["patience", "eval_every"])
def test_patience_and_evaluations_need_held_out_text(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} needs held-out text"):
        job(recipe={name: 3})


def test_narrow_models_are_trained_in_float32() -> None:
    assert job().recipe.dtype == "float32"
    assert job(dtype="bfloat16").recipe.dtype == "bfloat16"
