"""Attention weights: equal to the eager implementation's, for every variant and family, with rows that sum to 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.gpt2 import TEXT, VARIANTS
from support.models import load, save_other

from genlm.errors import InputError, ModelError, UsageError
from genlm.model.adapter import TransformersModel
from genlm.model.attention import attention_weights, softmax_of
from genlm.model.load import Model
from genlm.model.network import QueryKey
from genlm.tasks.attention import look_at_attention

PROMPT = "The king"


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


def eager(folder: Path, ids: list[int]) -> list[torch.Tensor]:
    """Return the weights of a transformers model that is loaded with eager attention."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        return [weights[0] for weights in loaded(torch.tensor([ids]), output_attentions=True).attentions]


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_equal_those_of_the_eager_implementation(name: str, variant: Callable[[str], Path]) -> None:
    loaded = load(variant(name))
    ids = loaded.tokenizer.encode(PROMPT)
    expected = eager(variant(name), ids)
    maps = look_at_attention(loaded, PROMPT, check=True)
    assert len(maps.heads) == sum(map(len, expected))
    for head in maps.heads:
        torch.testing.assert_close(
            torch.tensor(head.weights), expected[head.layer][head.head], atol=1e-5, rtol=0, msg=f"{name}: {head}"
        )
    assert maps.check is not None
    assert maps.check.largest_difference < 1e-5


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])
def test_other_families_return_weights_that_their_fast_kernel_does_not_compute(family: str, tmp_path: Path) -> None:
    changes = {"num_key_value_heads": 2} if family == "llama" else {}
    folder = save_other(tmp_path / family, family, **changes)
    loaded = load(folder)
    assert isinstance(loaded.network, TransformersModel)
    usual = loaded.network.model.config._attn_implementation
    maps = look_at_attention(loaded, PROMPT, check=True)
    expected = eager(folder, loaded.tokenizer.encode(PROMPT))
    for head in maps.heads:
        torch.testing.assert_close(torch.tensor(head.weights), expected[head.layer][head.head], atol=1e-5, rtol=0)
    assert maps.check is not None
    assert maps.check.largest_difference < 1e-5
    assert loaded.network.model.config._attn_implementation == usual != "eager"


def test_rows_sum_to_one_and_nothing_is_above_the_diagonal(model: Model) -> None:
    maps = look_at_attention(model, TEXT[:60])
    assert len(maps.heads) == maps.num_layers * maps.num_heads == 8
    for head in maps.heads:
        weights = torch.tensor(head.weights)
        torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights)), atol=1e-5, rtol=0)
        assert weights.triu(1).eq(0).all()


def test_a_layer_and_a_head_can_be_chosen(model: Model) -> None:
    everything = look_at_attention(model, PROMPT)
    assert [(head.layer, head.head) for head in everything.heads] == [(lay, h) for lay in range(2) for h in range(4)]
    assert look_at_attention(model, PROMPT, layer=1).heads == everything.heads[4:]
    assert look_at_attention(model, PROMPT, head=3).heads == (everything.heads[3], everything.heads[7])
    assert look_at_attention(model, PROMPT, layer=1, head=2).heads == (everything.heads[6],)


@pytest.mark.parametrize(
    ("name", "value", "most"), [("layer", 2, 1), ("layer", -1, 1), ("head", 4, 3), ("head", -1, 3)]
)
def test_an_unknown_layer_or_head_is_an_error(model: Model, name: str, value: int, most: int) -> None:
    with pytest.raises(UsageError, match=f"the model has no {name} {value}") as caught:
        look_at_attention(model, PROMPT, **{name: value})  # type: ignore[arg-type]
    assert caught.value.hint == f"its {name}s are 0 to {most}"


def test_the_check_finds_weights_that_do_not_match_the_queries_and_keys(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = model.network.attention

    def wrong(ids: list[int]) -> list[torch.Tensor]:
        layers = [weights.clone() for weights in right(ids)]
        layers[1][2, 1] = torch.tensor([0.5, 0.4, 0.2, *[0.0] * (len(ids) - 3)])
        return layers

    monkeypatch.setattr(model.network, "attention", wrong)
    check = look_at_attention(model, "The king had three", check=True).check
    assert check is not None
    assert check.largest_difference > 0.1
    assert check.largest_row_error == pytest.approx(0.1)
    assert check.largest_above_diagonal == pytest.approx(0.2)


def test_softmax_worked_out_by_hand_with_shared_keys_and_a_mask() -> None:
    """Two query heads share a key head; the mask hides the first token from the second."""
    query = torch.tensor([[[1.0], [1.0]], [[0.0], [2.0]]])
    key = torch.tensor([[[0.0], [1.0]]])
    weights = softmax_of(QueryKey(query, key, 2.0, None), torch.float64)
    e4, e2 = torch.tensor(4.0).double().exp(), torch.tensor(2.0).double().exp()
    torch.testing.assert_close(weights[0], torch.tensor([[1, 0], [1 / (1 + e2), e2 / (1 + e2)]]).double())
    torch.testing.assert_close(weights[1], torch.tensor([[1, 0], [1 / (1 + e4), e4 / (1 + e4)]]).double())
    hidden = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert softmax_of(QueryKey(query, key, 2.0, hidden))[0].tolist() == [[1, 0], [0, 1]]


def test_a_model_without_attention_is_an_error_not_an_empty_result(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    with pytest.raises(ModelError, match="MambaForCausalLM has no attention weights"):
        TransformersModel(mamba).attention([1, 2, 3])


def test_a_model_that_gives_no_access_to_its_queries_is_an_error() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    bloom = TransformersModel(BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=16, n_layer=1, n_head=2)).eval())
    assert bloom.attention([1, 2, 3])[0].shape == (2, 3, 3)
    with pytest.raises(ModelError, match="gives no access to its queries and keys"):
        bloom.queries_and_keys([1, 2, 3])


class Stub:
    """A transformers model whose config does not say which attention implementation is in use."""

    def __init__(self, unsupported: str = "") -> None:
        self.config = object()
        self.unsupported = unsupported
        self.chosen: list[str] = []

    def set_attn_implementation(self, name: str) -> None:
        self.chosen.append(name)
        if name == self.unsupported:
            raise ValueError("not supported")

    def __call__(self, row: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(attentions=[torch.ones(1, 2, 1, 1)])


@pytest.mark.parametrize(
    ("unsupported", "chosen"), [("", ["eager", "sdpa"]), ("sdpa", ["eager", "sdpa", "eager"])], ids=["sdpa", "no sdpa"]
)
def test_an_unknown_implementation_is_replaced_by_the_best_that_the_model_supports(
    unsupported: str, chosen: list[str]
) -> None:
    stub = Stub(unsupported)
    assert attention_weights(stub, torch.tensor([[1]]))[0].shape == (2, 1, 1)
    assert stub.chosen == chosen


def test_a_prompt_longer_than_the_context_is_an_error(model: Model) -> None:
    with pytest.raises(InputError, match="has 65 tokens, beyond the model's context of 64"):
        look_at_attention(model, "o" * 65)


def test_weights_that_are_nan_are_an_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network, "attention", lambda ids: [torch.full((4, len(ids), len(ids)), torch.nan)])
    with pytest.raises(ModelError, match="not numbers"):
        look_at_attention(model, PROMPT)
