"""Attention weights by definition, softmax(QK^T / sqrt(d_k)) (Vaswani et al. 2017), and those of transformers models.

The usual kernels of transformers (SDPA, flash attention) never hold the weights, and silently return none. So for the
weights a model runs with the "eager" implementation, and for queries and keys with a function registered here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from genlm.errors import ModelError
from genlm.model.network import QueryKey

RECORDER = "genlm_recorder"


def softmax_of(inputs: QueryKey, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return softmax(QK^T * scale + mask), computed in `dtype`. Shape: (heads, tokens, tokens)."""
    query, key = inputs.query.to(dtype), repeat_heads(inputs.key, inputs.query.shape[0]).to(dtype)
    scores = query @ key.transpose(-1, -2) * inputs.scale
    if inputs.mask is not None:
        return (scores + inputs.mask.to(dtype)).softmax(-1)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def repeat_heads(states: Tensor, heads: int) -> Tensor:
    """Repeat each key or value head for every query head that shares it. Shape: (heads, tokens, width)."""
    return states.repeat_interleave(heads // states.shape[0], dim=0)


def attention_weights(model: Any, row: Tensor) -> list[Tensor]:
    """Return every layer's weights in a transformers model. `row`: (1, tokens). Shapes: (heads, tokens, tokens)."""
    with _implementation(model, "eager"):
        layers = getattr(model(row, output_attentions=True, use_cache=False), "attentions", None)
    if not layers or any(weights is None for weights in layers):
        raise ModelError(f"{type(model).__name__} has no attention weights in some or all of its layers")
    return [weights[0].float() for weights in layers]


def queries_and_keys(model: Any, row: Tensor) -> list[QueryKey]:
    """Return every layer's queries and keys in a transformers model, after any rotation. `row`: (1, tokens)."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    layers: list[QueryKey] = []

    def record(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf)
        inputs = QueryKey(query[0], key[0], scale, None if mask is None else mask[0, 0])
        layers.append(inputs)
        mixed = torch.matmul(softmax_of(inputs).to(value.dtype), repeat_heads(value[0], query.shape[1]))
        return mixed.transpose(0, 1)[None].contiguous(), None

    AttentionInterface.register(RECORDER, record)
    AttentionMaskInterface.register(RECORDER, eager_mask)
    with _implementation(model, RECORDER):
        model(row, use_cache=False)
    if not layers:
        raise ModelError(f"{type(model).__name__} gives no access to its queries and keys")
    return layers


@contextmanager
def _implementation(model: Any, name: str) -> Iterator[None]:
    """Run a model with another attention implementation."""
    # transformers has no public way to read this.
    usual = getattr(model.config, "_attn_implementation", None)
    try:
        model.set_attn_implementation(name)
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{type(model).__name__} cannot use the attention {name!r}: {error}") from error
    try:
        yield
    finally:
        try:
            model.set_attn_implementation(usual or "sdpa")
        except (ValueError, ImportError):
            if usual:
                raise
            model.set_attn_implementation("eager")
