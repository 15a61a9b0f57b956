"""Products with a weight: in the model's own type, or in 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Symmetric, so that zero stays zero and no offset is carried along.
INT8_MOST = 127


class Linear(Protocol):
    """Maps rows of `in` numbers to rows of `out`."""

    def __call__(self, rows: Tensor) -> Tensor:
        """`rows`: (n, in). Shape: (n, out)."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """What it keeps."""
        ...


class Embedding(Protocol):
    """A vector for each token of the vocabulary; as an output head, the logit of each."""

    def look_up(self, ids: Tensor) -> Tensor:
        """The vectors of ids. Shape: (*ids, width)."""
        ...

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits, float32. `rows`: (n, width). Shape: (n, vocab)."""
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """What it keeps."""
        ...


class Norm:
    """Layer normalisation."""

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        self.weight = weight
        self.bias = bias
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """`x`: (..., width), and so the result."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)

    def tensors(self) -> tuple[Tensor, ...]:
        """See Linear."""
        return (self.weight, self.bias)


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows @ weight.T + bias. `rows`: (n, in); `weight`: (out, in), of any strides. Shape: (n, out).

    In float32 on a CPU by oneDNN, which is threaded and quick on every x86, where the MKL that torch calls is neither
    on AMD's.
    """
    if rows.dtype is torch.float32 and rows.device.type == "cpu" and _has_onednn():
        made: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return made
    return F.linear(rows, weight, bias)


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class FloatLinear:
    """A weight that GPT-2 keeps as (in, out), used where it lies: neither copied nor transposed."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """See Linear."""
        return product(rows, self.weight.t(), self.bias)

    def tensors(self) -> tuple[Tensor, ...]:
        """See Linear."""
        return (self.weight, self.bias)


class FloatEmbedding:
    """An embedding (vocab, width) in the model's own type."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def look_up(self, ids: Tensor) -> Tensor:
        """See Embedding."""
        return F.embedding(ids, self.weight)

    def __call__(self, rows: Tensor) -> Tensor:
        """See Embedding."""
        return product(rows, self.weight, None).float()

    def tensors(self) -> tuple[Tensor, ...]:
        """See Embedding."""
        return (self.weight,)


class Int8Matrix:
    """A matrix (out, in) in int8 with a scale for each of its rows; `x @ matrix.T` with x in int8 too.

    Each row of x gets a scale of its own from its largest number (Dettmers et al. 2022, arXiv:2208.07339, vector-wise
    quantization). The sums are exact integers, so a row's result does not depend on the rows beside it.
    """

    def __init__(self, weight: Tensor) -> None:
        largest = weight.abs().amax(-1).float().clamp(min=torch.finfo(torch.float32).tiny)
        self.scale = largest / INT8_MOST
        self.weight = (weight / self.scale[:, None].to(weight.dtype)).round_().to(torch.int8)

    def product(self, x: Tensor) -> Tensor:
        """x @ matrix.T without the matrix's own scale. `x`: (n, in), float32. Shape: (n, out)."""
        scale = x.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(INT8_MOST)
        quantized = (x / scale).round_().to(torch.int8)
        return torch._int_mm(quantized, self.weight.t()).to(torch.float32).mul_(scale)


class Int8Linear:
    """A weight (in, out) in int8, one scale an output channel; activations are quantized as they come."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.matrix = Int8Matrix(weight.t().contiguous())
        self.bias = bias.float()

    def __call__(self, rows: Tensor) -> Tensor:
        """See Linear."""
        return torch.addcmul(self.bias, self.matrix.product(rows), self.matrix.scale)

    def tensors(self) -> tuple[Tensor, ...]:
        """See Linear."""
        return (self.matrix.weight, self.matrix.scale, self.bias)


class Int8Embedding:
    """An embedding in int8, one scale a token."""

    def __init__(self, weight: Tensor) -> None:
        self.matrix = Int8Matrix(weight)

    def look_up(self, ids: Tensor) -> Tensor:
        """See Embedding."""
        return F.embedding(ids, self.matrix.weight).float() * self.matrix.scale[ids][..., None]

    def __call__(self, rows: Tensor) -> Tensor:
        """See Embedding."""
        return self.matrix.product(rows).mul_(self.matrix.scale)

    def tensors(self) -> tuple[Tensor, ...]:
        """See Embedding."""
        return (self.matrix.weight, self.matrix.scale)


@dataclass(frozen=True)
class Precision:
    """How the parts of a model keep their weights."""

    linear: Callable[[Tensor, Tensor], Linear]
    embedding: Callable[[Tensor], Embedding]
    plain: Callable[[Tensor], Tensor]

    def norm(self, weight: Tensor, bias: Tensor, epsilon: float) -> Norm:
        """A layer normalisation."""
        return Norm(self.plain(weight), self.plain(bias), epsilon)


FLOAT = Precision(FloatLinear, FloatEmbedding, lambda weight: weight)
# What is not a product stays float32: it is small, and int8 would show in it.
INT8 = Precision(Int8Linear, Int8Embedding, Tensor.float)
