"""GPT-2 in int8: symmetric, with a scale for each row of a weight and of its input.

Dettmers et al. 2022, arXiv:2208.07339, vector-wise quantization.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.model.gpt2 import GPT2, Linear, Module, speed_up_attributes
from genlm.model.operators import find_int8_product

# Symmetric, so zero stays zero and needs no offset.
LARGEST = 127


def quantize_gpt2(model: GPT2) -> None:
    """Replace the embedding, the linear layers and the head of a float32 model by int8 modules.

    Layer norms and positions stay float32: they are small, and int8 would show in the result.
    """
    # One at a time, so that each float weight is freed before the next int8 one is made.
    for parent in (part for block in model.h for part in block.children()):
        for name, module in parent.named_children():
            if isinstance(module, Linear):
                parent.add_module(name, Int8Linear(*quantize(module.weight.t().contiguous()), module.bias))
    is_tied = model.lm_head.weight is model.wte.weight
    rows, scale = quantize(model.wte.weight)
    head = Int8Linear(rows, scale) if is_tied else Int8Linear(*quantize(model.lm_head.weight))
    model.add_module("wte", Int8Embedding(rows, scale))
    model.add_module("lm_head", head)
    speed_up_attributes(model)


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows, (n, m), in int8 and the scale of each, (n, 1)."""
    largest = rows.abs().amax(-1, keepdim=True).float().clamp_(min=torch.finfo(torch.float32).tiny)
    scale = largest.div_(LARGEST)
    return (rows / scale.to(rows.dtype)).round_().to(torch.int8), scale


class Int8Linear(Module):
    """A linear layer with its weight, (out, in), in int8; each input row is quantized as it comes.

    The sums are exact integers, so the result of a row does not depend on the rows beside it.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.product = find_int8_product()
        self.register_buffer("weight", self.product.pack(weight))
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in) to (n, out)."""
        rows, scale = quantize(x)
        product = self.product.multiply(rows, self.weight, self.scale)
        return product.mul_(scale) if self.bias is None else torch.addcmul(self.bias, product, scale)


class Int8Embedding(Module):
    """An embedding with its weight, (vocab, width), in int8."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of `ids`: (*ids, width)."""
        return F.embedding(ids, self.weight).float() * self.scale[ids]
