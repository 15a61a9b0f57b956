"""Attention weights by their definition: softmax(QK^T / sqrt(d_k)), Vaswani et al. 2017."""

from __future__ import annotations

import torch
from torch import Tensor

from genlm.model.network import QueryKey


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
