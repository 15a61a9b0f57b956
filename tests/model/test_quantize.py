"""Int8 modules: close to the float ones, with exact integer sums, whichever operator computes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.models import load, save_other

from genlm.errors import ModelError
from genlm.model.gpt2 import GPT2, Embedding, Head, Linear
from genlm.model.load import Model
from genlm.model.quantize import Int8Embedding, Int8Linear, quantize
from genlm.model.source import BUNDLED, BUNDLED_FOLDER


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def float_linear(weight: torch.Tensor, bias: torch.Tensor) -> Linear:
    linear = Linear(*weight.shape)
    linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return linear.requires_grad_(False)


def int8_linear(weight: torch.Tensor, bias: torch.Tensor) -> Int8Linear:
    return Int8Linear(*quantize(weight.t().contiguous()), bias)


def test_a_quantized_weight_is_within_half_a_step_of_the_float_one() -> None:
    weight = random(30, 40)
    quantized, scale = quantize(weight)
    assert quantized.dtype is torch.int8
    assert ((quantized * scale - weight).abs() <= scale * 0.5001).all()


def test_an_int8_linear_layer_is_close_to_the_float_one() -> None:
    weight, bias, x = random(64, 96), random(96, seed=1), random(5, 64, seed=2)
    exact, near = float_linear(weight, bias)(x), int8_linear(weight, bias)(x)
    assert (near - exact).norm() / exact.norm() < 0.015


def test_a_linear_layer_worked_out_by_hand() -> None:
    # The scales are 1/127 and 2/127 and the numbers whole multiples of them, so nothing is lost.
    linear = int8_linear(torch.tensor([[127.0, 0.0], [-127.0, 254.0]]) / 127, torch.tensor([0.5, -1.0]))
    assert linear(torch.tensor([[1.0, 0.0], [127.0, -127.0]])) == pytest.approx(
        torch.tensor([[1.5, -1.0], [254.5, -255.0]])
    )


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    linear, x = int8_linear(random(64, 96), random(96)), random(40, 64)
    together = linear(x)
    for row in range(40):
        assert torch.equal(linear(x[row : row + 1])[0], together[row])


def test_zeros_stay_zeros() -> None:
    linear = int8_linear(torch.zeros(8, 4), torch.arange(4.0))
    assert torch.equal(linear(torch.zeros(2, 8)), torch.arange(4.0).expand(2, 4))


def test_an_embedding_and_its_tied_head_are_close_to_the_float_ones() -> None:
    weight, states = random(50, 64), random(3, 64, seed=1)
    embedding, head = Embedding(50, 64), Head(64, 50)
    for module in (embedding, head):
        module.load_state_dict({"weight": weight}, assign=True)
        module.requires_grad_(False)
    ids = torch.tensor([[1, 2], [49, 0]])
    vectors = Int8Embedding(*quantize(weight))(ids)
    assert vectors.shape == (2, 2, 64)
    assert (vectors - embedding(ids)).abs().max() < 0.02
    exact, near = head(states), Int8Linear(*quantize(weight))(states)
    assert (near - exact).norm() / exact.norm() < 0.015


def test_int8_has_the_quality_of_float32() -> None:
    text = (
        "Once upon a time there lived a king who had three daughters, and the youngest of them was so fair that the "
        "sun himself wondered whenever he shone upon her face. Near the castle lay a great dark forest, and in the "
        "forest under an old tree was a well; and when the day was hot the child went out into the wood and sat down "
        "by the side of the cool water, and took a golden ball, and threw it up and caught it again."
    )
    bits = {dtype: bits_per_byte(load(BUNDLED_FOLDER / BUNDLED, dtype=dtype), text) for dtype in ("float32", "int8")}
    assert bits["int8"] == pytest.approx(bits["float32"], rel=0.01)


def bits_per_byte(model: Model, text: str) -> float:
    ids = model.tokenizer.encode(text)
    logprobs = model.network.logits_of([ids], [0])[:-1].log_softmax(-1)
    return -logprobs.gather(-1, torch.tensor(ids[1:])[:, None]).sum().item() / math.log(2) / len(text.encode())


@pytest.mark.parametrize("name", ["plain", "untied"])
def test_int8_keeps_no_float_copy_of_a_weight(name: str, variant: Callable[[str], Path]) -> None:
    exact, model = load(variant(name)), load(variant(name), dtype="int8")
    assert model.info.dtype == "int8"
    assert model.info.parameters == exact.info.parameters
    assert model.network.step_bytes(1, 0) < 0.35 * exact.network.step_bytes(1, 0)
    assert isinstance(model.network, GPT2)
    modules = dict(model.network.named_modules())
    assert not any(isinstance(module, (Linear, Embedding, Head)) for name, module in modules.items() if name != "wpe")


def test_int8_is_for_gpt2_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="int8 works for GPT-2 models on the CPU only"):
        load(save_other(tmp_path / "llama", "llama"), dtype="int8")
