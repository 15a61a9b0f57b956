"""Products in int8: near the float ones by as much as the steps of the scale allow, and exact in their sums."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.models import save_other

import genlm
from genlm.model import linear
from genlm.model.linear import FloatEmbedding, FloatLinear, Int8Embedding, Int8Linear, quantize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def _either_layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix as oneDNN lays it out, on a processor that has the instructions, and as it is elsewhere."""
    if request.param and not linear._has_vnni():
        pytest.skip("needs a processor with VNNI instructions")
    monkeypatch.setattr(linear, "_has_vnni", lambda: request.param)


def test_a_quantized_weight_is_within_half_a_step_of_its_own() -> None:
    weight = random(30, 40)
    quantized, scale = quantize(weight)
    assert quantized.dtype is torch.int8
    assert ((quantized * scale - weight).abs() <= scale * 0.5001).all()


@pytest.mark.usefixtures("_either_layout")
def test_a_product_is_near_the_float_one() -> None:
    weight, bias, x = random(64, 96), random(96, seed=1), random(5, 64, seed=2)
    exact, near = FloatLinear(weight, bias)(x), Int8Linear(weight, bias)(x)
    assert (near - exact).norm() / exact.norm() < 0.015


@pytest.mark.usefixtures("_either_layout")
def test_a_product_worked_out_by_hand() -> None:
    # The scales are 1/127 and 2/127, the numbers whole multiples of them: nothing is lost.
    product = Int8Linear(torch.tensor([[127.0, 0.0], [-127.0, 254.0]]) / 127, torch.tensor([0.5, -1.0]))
    assert product(torch.tensor([[1.0, 0.0], [127.0, -127.0]])) == pytest.approx(
        torch.tensor([[1.5, -1.0], [254.5, -255.0]])
    )


@pytest.mark.usefixtures("_either_layout")
def test_a_row_is_the_same_whatever_rows_are_beside_it() -> None:
    product, x = Int8Linear(random(64, 96), random(96)), random(40, 64)
    together = product(x)
    for row in range(40):
        assert torch.equal(product(x[row : row + 1])[0], together[row])


@pytest.mark.usefixtures("_either_layout")
def test_zeros_stay_zeros() -> None:
    product = Int8Linear(torch.zeros(8, 4), torch.arange(4.0))
    assert torch.equal(product(torch.zeros(2, 8)), torch.arange(4.0).expand(2, 4))


def test_both_layouts_sum_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    # The largest sums there are, which would overflow 16 bits in pairs.
    weight, x = torch.full((3072, 4), 2.0), torch.cat([torch.full((1, 3072), 5.0), random(2, 3072)])
    packed = Int8Linear(weight, torch.zeros(4))(x)
    monkeypatch.setattr(linear, "_has_vnni", lambda: False)
    assert torch.equal(Int8Linear(weight, torch.zeros(4))(x), packed)
    assert packed[0] == pytest.approx(torch.full((4,), 30720.0))


@pytest.mark.usefixtures("_either_layout")
def test_an_embedding_and_its_tied_head_are_near_the_float_ones() -> None:
    weight, x = random(50, 64), random(3, 64, seed=1)
    exact, near = FloatEmbedding(weight), Int8Embedding(weight)
    ids = torch.tensor([[1, 2], [49, 0]])
    assert near.look_up(ids).shape == (2, 2, 64)
    assert (near.look_up(ids) - exact.look_up(ids)).abs().max() < 0.02
    assert (near(x) - exact(x)).norm() / exact(x).norm() < 0.015


def test_int8_is_a_dtype_of_the_bundled_model_with_the_quality_of_float32(tiny: Path) -> None:
    text = (
        "Once upon a time there lived a king who had three daughters, and the youngest of them was so fair that the "
        "sun himself wondered whenever he shone upon her face. Near the castle lay a great dark forest, and in the "
        "forest under an old tree was a well; and when the day was hot the child went out into the wood and sat down "
        "by the side of the cool water, and took a golden ball, and threw it up and caught it again."
    )
    bits = {dtype: bits_per_byte(genlm.load("fable", dtype=dtype), text) for dtype in ("float32", "int8")}
    assert bits["int8"] == pytest.approx(bits["float32"], rel=0.01)


def bits_per_byte(lm: genlm.LanguageModel, text: str) -> float:
    ids = lm._model.tokenizer.encode(text)
    logprobs = lm._model.network.logits(ids)[:-1].log_softmax(-1)
    return -logprobs.gather(-1, torch.tensor(ids[1:])[:, None]).sum().item() / math.log(2) / len(text.encode())


def test_int8_reports_itself_and_keeps_no_float_copy(tiny: Path) -> None:
    lm = genlm.load(str(tiny), dtype="int8")
    assert lm.info.dtype == "int8"
    exact = genlm.load(str(tiny))
    assert lm._model.network.step_bytes(1, 0) < 0.35 * exact._model.network.step_bytes(1, 0)


def test_int8_is_for_gpt2_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(genlm.GenlmError, match="int8 runs GPT-2 models on the CPU only"):
        genlm.load(str(save_other(tmp_path / "llama", "llama")), dtype="int8")
