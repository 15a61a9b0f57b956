"""GPT-2: equal to transformers' for every variant of its config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import VARIANTS
from support.models import load, read_config

from genlm.model.gpt2 import GPT2
from genlm.model.gpt2_config import ACTIVATIONS, Config, supports


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_those_of_transformers(name: str, attention: str, variant: Callable[[str], Path]) -> None:
    from transformers import GPT2LMHeadModel

    folder = variant(name)
    gpt2 = load(folder).network
    assert isinstance(gpt2, GPT2)
    reference = GPT2LMHeadModel.from_pretrained(folder, attn_implementation=attention).eval()
    ids = [7, 250, 0, 91, 33, 200, 5, 64, 12, 180, 3][: gpt2.context]
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0]
    assert expected.std() > 0.2
    torch.testing.assert_close(gpt2.logits(ids), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_those_of_transformers(name: str) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-9, 9, 1001)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), rtol=1e-6, atol=1e-6)


def test_a_tied_head_is_the_embedding_itself(variant: Callable[[str], Path]) -> None:
    gpt2 = load(variant("plain")).network
    assert isinstance(gpt2, GPT2)
    assert gpt2.lm_head.weight is gpt2.wte.weight
    untied = load(variant("untied")).network
    assert isinstance(untied, GPT2)
    assert untied.lm_head.weight is not untied.wte.weight


def test_every_weight_is_a_parameter_without_gradient(tiny: Path) -> None:
    loaded = load(tiny)
    assert isinstance(loaded.network, GPT2)
    parameters = list(loaded.network.parameters())
    assert sum(parameter.numel() for parameter in parameters) == loaded.info.parameters
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in parameters)


def test_weights_must_be_complete(tiny: Path) -> None:
    gpt2 = load(tiny).network
    assert isinstance(gpt2, GPT2)
    weights = gpt2.state_dict()
    del weights["ln_f.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"ln_f.bias\""):
        gpt2.load_weights(weights)


def test_a_slot_keeps_nothing_of_its_previous_sequence(tiny: Path) -> None:
    """A row of NaN leaves, and a shorter sequence takes its slot beside a longer one."""
    gpt2 = load(tiny).network
    assert isinstance(gpt2, GPT2)
    _, long = gpt2.prefill([[1, 2, 3, 4, 5, 6], [9] * 12], 0)
    _, short = gpt2.prefill([[4, 5]], 0)
    cache = long.new_empty(2, 20)
    cache.insert(torch.tensor([0, 1]), long, torch.tensor([0, 1]), 8)
    for memory in (cache.keys, cache.values):
        memory[:, 1, :, :12] = torch.nan
    cache.keep_first(1)
    cache.insert(torch.tensor([1]), short, torch.tensor([0]), 18)
    rows = [[1, 2, 3, 4, 5, 6], [4, 5]]
    for token in range(20, 28):
        rows = [[*row, token] for row in rows]
        expected = torch.stack([gpt2.logits(row)[-1] for row in rows])
        torch.testing.assert_close(cache.step(torch.tensor([token] * 2)), expected, rtol=1e-4, atol=1e-4)


def test_config_defaults_equal_those_of_transformers() -> None:
    from transformers import GPT2Config

    reference = GPT2Config()
    assert Config.of({}) == Config(**{name: getattr(reference, name) for name in Config.__dataclass_fields__})


def test_a_config_may_use_the_field_names_of_other_models() -> None:
    named = {"hidden_size": 6, "num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 9}
    assert Config.of(named) == Config(n_embd=6, n_head=2, n_layer=1, n_positions=9)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("n_embd", "32", "a positive integer"),
        ("n_layer", 2.0, "a positive integer"),
        ("n_head", 0, "a positive integer"),
        ("vocab_size", True, "a positive integer"),
        ("n_positions", None, "a positive integer"),
        ("n_inner", -1, "a positive integer or null"),
        ("layer_norm_epsilon", "small", "a number at least 0"),
        ("scale_attn_weights", 1, "true or false"),
        ("activation_function", "gelu_old", "a known activation function"),
    ],
)
def test_a_config_value_of_the_wrong_kind_is_an_error(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be {wanted}, not {value!r}$"):
        Config.of({field: value})


def test_the_width_must_be_a_multiple_of_the_heads() -> None:
    with pytest.raises(ValueError, match="n_embd=32 cannot be divided among n_head=5 heads"):
        Config.of({"n_embd": 32, "n_head": 5})


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"activation_function": "laplace"},
        {"activation_function": ["relu"]},
        {"add_cross_attention": True},
        {"quantization_config": {"bits": 4}},
        {"architectures": ["GPT2DoubleHeadsModel"]},
    ],
)
def test_other_models_are_left_to_transformers(change: dict[str, Any], tiny: Path) -> None:
    config = read_config(tiny)
    assert supports(config)
    assert not supports(config | change)
