"""The loss on held-out text: every token counts once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from genlm.tasks.train.loop import HeldOut, estimate_loss, exact_loss, sample_text


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).train()


def ids(length: int) -> list[int]:
    return [0, *(7 * index % 290 for index in range(1, length))]


def loss_after(model: Any, past: list[int], target: int) -> float:
    with torch.inference_mode():
        return -float(model.eval()(torch.tensor([past])).logits[0, -1].log_softmax(-1)[target])


@pytest.mark.parametrize("length", [2, 9, 10, 23])
def test_the_exact_loss_gives_every_token_at_least_half_a_context(length: int, model: Any) -> None:
    text = ids(length)
    expected = 0.0
    for index in range(1, length):
        # Windows of 8 start every 4 tokens; the first window that reaches a token counts it.
        start = 0 if index <= 8 else 4 * math.ceil((index - 8) / 4)
        expected += loss_after(model, text[start:index], text[index])
    assert exact_loss(model, HeldOut([text], 1), 8) == pytest.approx(expected / (length - 1), rel=1e-4)


def test_an_estimate_of_a_whole_text_uses_adjacent_windows(model: Any) -> None:
    text = ids(20)
    expected = sum(loss_after(model, text[(index - 1) // 8 * 8 : index], text[index]) for index in range(1, 20))
    assert estimate_loss(model, HeldOut([text], 1), 8, most_tokens=100) == pytest.approx(expected / 19, rel=1e-4)


def test_an_estimate_of_a_part_is_spread_over_the_text(model: Any) -> None:
    text = ids(33)
    windows = [(0, 8), (16, 24)]
    expected = sum(
        loss_after(model, text[start:index], text[index])
        for start, end in windows
        for index in range(start + 1, end + 1)
    )
    assert estimate_loss(model, HeldOut([text], 1), 8, most_tokens=16) == pytest.approx(expected / 16, rel=1e-4)


def test_rows_are_evaluated_separately(model: Any) -> None:
    rows = [ids(5), ids(12)]
    alone = [exact_loss(model, HeldOut([row], 1), 8) for row in rows]
    expected = (4 * alone[0] + 11 * alone[1]) / 15
    assert exact_loss(model, HeldOut(rows, 1), 8) == pytest.approx(expected, rel=1e-4)
    assert estimate_loss(model, HeldOut([rows[0], rows[0]], 1), 8, 100) == pytest.approx(alone[0], rel=1e-4)


def test_bits_per_byte_count_all_tokens_over_all_bytes() -> None:
    assert HeldOut([[0, 1, 2], [0, 3]], num_bytes=6).bits_per_byte(math.log(4)) == pytest.approx(3 * 2 / 6)


def test_evaluation_leaves_the_model_in_training_mode(model: Any, tiny: Path) -> None:
    from tokenizers import Tokenizer

    model.train()
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    texts = [sample_text(model, tokenizer, 0, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    exact_loss(model, HeldOut([ids(9)], 1), 8)
    assert model.training
