"""Attention weights by their definition: softmax(QK^T / sqrt(d_k)), Vaswani et al. 2017."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from genlm.errors import ModelError
from genlm.model.network import QueryKey

RECORDER = "genlm_recorder"


def softmax_of(made: QueryKey, dtype: torch.dtype = torch.float32) -> Tensor:
    """softmax(QK^T * scale + mask), computed in `dtype`. Shape: (heads, tokens, tokens)."""
    query, key = made.query.to(dtype), shared(made.key, made.query.shape[0]).to(dtype)
    scores = query @ key.transpose(-1, -2) * made.scale
    if made.mask is not None:
        return (scores + made.mask.to(dtype)).softmax(-1)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def shared(states: Tensor, heads: int) -> Tensor:
    """Each key or value head as often as there are query heads that share it. Shape: (heads, tokens, width)."""
    return states.repeat_interleave(heads // states.shape[0], dim=0)


def attention_weights(model: Any, row: Tensor) -> list[Tensor]:
    """The weights of every layer. `row`: (1, tokens). Shape of each: (heads, tokens, tokens), float32."""
    with _attending_by(model, "eager"):
        given = getattr(model(row, output_attentions=True, use_cache=False), "attentions", None)
    if not given or any(weights is None for weights in given):
        raise ModelError(f"{type(model).__name__} gives no attention weights for some or all of its layers")
    return [weights[0].float() for weights in given]


def queries_and_keys(model: Any, row: Tensor) -> list[QueryKey]:
    """The queries and keys of every layer, with any rotation by position done. `row`: (1, tokens)."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    seen: list[QueryKey] = []

    def record(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
        own_mask = None if mask is None else _additive(mask)[0, 0]
        made = QueryKey(query[0], key[0], scale, own_mask)
        seen.append(made)
        mixed = torch.matmul(softmax_of(made).to(value.dtype), shared(value[0], query.shape[1]))
        return mixed.transpose(0, 1)[None].contiguous(), None

    AttentionInterface.register(RECORDER, record)
    AttentionMaskInterface.register(RECORDER, eager_mask)
    with _attending_by(model, RECORDER):
        model(row, use_cache=False)
    if not seen:
        raise ModelError(f"{type(model).__name__} does not let its queries and keys be read")
    return seen


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf)


@contextmanager
def _attending_by(model: Any, implementation: str) -> Iterator[None]:
    usual = model.config._attn_implementation
    try:
        model.set_attn_implementation(implementation)
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{type(model).__name__} cannot attend by {implementation!r}: {error}") from error
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
