"""A block of GPT-2, and the ways in which its new tokens attend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.model.gpt2_config import ACTIVATIONS, Config
from genlm.model.linear import Linear, Norm, Precision


class Block:
    """Attention and feed-forward network, each on a normalised copy of the stream that it adds to."""

    def __init__(self, weights: MutableMapping[str, Tensor], config: Config, layer: int, precision: Precision) -> None:
        self.layer = layer

        def linear(name: str) -> Linear:
            place = f"h.{layer}.{name}"
            return precision.linear(weights.pop(f"{place}.weight"), weights.pop(f"{place}.bias"))

        def norm(name: str) -> Norm:
            place = f"h.{layer}.{name}"
            return precision.norm(
                weights.pop(f"{place}.weight"), weights.pop(f"{place}.bias"), config.layer_norm_epsilon
            )

        self.norm_1, self.norm_2 = norm("ln_1"), norm("ln_2")
        self.qkv, self.project = linear("attn.c_attn"), linear("attn.c_proj")
        self.expand, self.contract = linear("mlp.c_fc"), linear("mlp.c_proj")
        self.activation = ACTIVATIONS[config.activation_function]
        self.heads = config.n_head
        self.upcast = config.reorder_and_upcast_attn
        self.scale = 1.0 / math.sqrt(config.n_embd // config.n_head) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def __call__(self, x: Tensor, rows: int, attend: Attend) -> Tensor:
        """`x`: (rows * tokens, width), and so the result."""
        qkv = self.qkv(self.norm_1(x)).view(rows, -1, 3, self.heads, x.shape[-1] // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, self)
        x = x + self.project(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.contract(self.activation(self.expand(self.norm_2(x))))

    def tensors(self) -> Iterator[Tensor]:
        """Its weights."""
        for norm in (self.norm_1, self.norm_2):
            yield from norm.tensors()
        for linear in (self.qkv, self.project, self.expand, self.contract):
            yield from linear.tensors()

    def attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """softmax(QK^T * scale) V. Shapes: (rows, heads, tokens, head width)."""
        if self.upcast:
            query, key = query.float(), key.float()
            mixed = F.scaled_dot_product_attention(query, key, value.float(), mask, 0.0, causal, scale=self.scale)
            return mixed.to(value.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=self.scale)

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """softmax(QK^T * scale) with what comes later hidden, (rows, heads, tokens, tokens), float32.

        The fast kernel behind `attention` never holds these.
        """
        scores = query.float() @ key.float().transpose(-1, -2) * self.scale
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1)


# Given a layer's query, key and value of new tokens, and the block: the mixed values.
Attend = Callable[[Tensor, Tensor, Tensor, Block], Tensor]


def attend_causally(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
    """Attend among the new tokens alone, each to itself and those before it."""
    return block.attention(query, key, value, None, causal=True)


def attend_each(lengths: Tensor, keys: Tensor, values: Tensor) -> Attend:
    """Keep each row's one new token at the row's length; attend to it and those before it.

    `lengths`: (rows,); `keys`, `values`: (layers, rows, heads, tokens, head width). Shapes do not depend on lengths.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    seen = (torch.arange(keys.shape[3], device=lengths.device) <= lengths[:, None])[:, None, None]

    def attend(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
        kept_keys, kept_values = keys[block.layer], values[block.layer]
        kept_keys[rows, :, lengths] = key[:, :, 0]
        kept_values[rows, :, lengths] = value[:, :, 0]
        return block.attention(query, kept_keys, kept_values, seen, causal=False)

    return attend
