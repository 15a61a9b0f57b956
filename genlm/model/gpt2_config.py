"""GPT-2's `config.json`: its fields, and which models `gpt2` covers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
}

# transformers' default for a config without an eos_token_id.
END_OF_TEXT_ID = 50256

# Other names that transformers accepts for fields of a GPT2Config.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


@dataclass(frozen=True)
class Config:
    """The part of GPT2Config that the forward pass depends on."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Config:
        """Return the config for the contents of a `config.json`.

        Raises:
            ValueError: a field has an impossible value.
        """
        config = {ALIASES.get(name, name): value for name, value in config.items()}
        result = cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})
        for field in fields(cls):
            _check(field.name, getattr(result, field.name), field.default)
        if result.n_embd % result.n_head:
            raise ValueError(f"n_embd={result.n_embd} cannot be divided among n_head={result.n_head} heads")
        return result

    @property
    def inner(self) -> int:
        """The width of the MLP's hidden layer."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd


def _check(name: str, value: object, default: object) -> None:
    """Raise ValueError if a field's value is not of the same kind as its default."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if default is None:
        fits, wanted = value is None or is_count, "a positive integer or null"
    elif isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = is_count, "a positive integer"
    elif isinstance(default, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits, wanted = is_number and 0 <= value <= sys.float_info.max, "a number at least 0"  # type: ignore[operator]
    else:
        fits, wanted = value in ACTIVATIONS, "a known activation function"
    if not fits:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def supports(config: Mapping[str, Any]) -> bool:
    """Return whether `gpt2` covers the model that a `config.json` describes."""
    return (
        config.get("model_type") == "gpt2"
        and config.get("architectures") in (None, ["GPT2LMHeadModel"])
        and str(config.get("activation_function", "gelu_new")) in ACTIVATIONS
        and not config.get("add_cross_attention")
        and not config.get("quantization_config")
    )
