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


def quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in int8, and the scale of each, from its largest number: (n, m) and (n, 1).

    Dettmers et al. 2022, arXiv:2208.07339, vector-wise quantization.
    """
    largest = rows.abs().amax(-1, keepdim=True).float().clamp_(min=torch.finfo(torch.float32).tiny)
    scale = largest.div_(INT8_MOST)
    return (rows / scale.to(rows.dtype)).round_().to(torch.int8), scale


class Int8Matrix:
    """A matrix (out, in) in int8 with a scale for each of its rows; `x @ matrix.T` with x in int8 too.

    Each row of x gets a scale of its own. The sums are exact integers, so a row's result does not depend on the rows
    beside it. The matrix lies as oneDNN wants it, where that is quick.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.scale = scale.flatten()
        self.is_packed = _has_vnni()
        self.weight = torch.ops.onednn.qlinear_prepack(weight, None) if self.is_packed else weight
        self.zero_points = torch.zeros(len(self.scale), dtype=torch.int32)

    def product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x @ matrix.T but for the scale of each row of x, and that scale: (n, out), float32, and (n, 1)."""
        quantized, scale = quantize(x)
        return (self._packed(quantized) if self.is_packed else self._plain(quantized)), scale

    def _packed(self, x: Tensor) -> Tensor:
        # The instructions multiply unsigned by signed bytes: x is moved up by 128, and 128 taken back from the sums.
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            x.view(torch.uint8) + 128,
            *(1.0, 128),
            *(self.weight, self.scale, self.zero_points),
            None,
            *(1.0, 0, torch.float32),
            *("none", [], ""),
        )
        return made

    def _plain(self, x: Tensor) -> Tensor:
        return torch._int_mm(x, self.weight.t()).to(torch.float32).mul_(self.scale)


@cache
def _has_vnni() -> bool:
    """Whether oneDNN sums the products of bytes exactly and at once; without these instructions pairs may overflow."""
    return _has_onednn() and hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.cpu._is_vnni_supported()


class Int8Linear:
    """A weight (in, out) in int8, one scale an output channel; activations are quantized as they come."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.matrix = Int8Matrix(*quantize(weight.t().contiguous()))
        self.bias = bias.float()

    def __call__(self, rows: Tensor) -> Tensor:
        """See Linear."""
        return torch.addcmul(self.bias, *self.matrix.product(rows))

    def tensors(self) -> tuple[Tensor, ...]:
        """See Linear."""
        return (self.matrix.weight, self.matrix.scale, self.bias)


class Int8Embedding:
    """An embedding in int8, one scale a token: by rows to look up, and as a matrix to multiply."""

    def __init__(self, weight: Tensor) -> None:
        self.rows, self.scale = quantize(weight)
        self.matrix = Int8Matrix(self.rows, self.scale)

    def look_up(self, ids: Tensor) -> Tensor:
        """See Embedding."""
        return F.embedding(ids, self.rows).float() * self.scale[ids]

    def __call__(self, rows: Tensor) -> Tensor:
        """See Embedding."""
        product, scale = self.matrix.product(rows)
        return product.mul_(scale)

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
