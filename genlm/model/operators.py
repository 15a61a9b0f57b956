"""Torch's private operators, each with a public replacement.

Only this module uses operators that torch may rename or change without notice. Each is used if it exists and passes a
check on a small example. Otherwise public functions take its place; their results are equal up to rounding for floats,
and exactly equal for int8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

# (rows, weight, bias) -> rows @ weight.T + bias, with rows (n, in) and weight (out, in) of any strides.
Linear: TypeAlias = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
# oneDNN's arguments for a float32 result, and for no operation after the product.
FLOAT_RESULT = (1.0, 0, torch.float32)
NO_POST_OP: tuple[str, list[float], str] = ("none", [], "")
# Maps signed bytes to unsigned ones.
UINT8_OFFSET = 128
# The public int8 product computes this many output features at a time, to bound its memory.
CHUNK = 4096


class Int8Product(NamedTuple):
    """A product of int8 matrices with exact integer sums.

    `pack` lays out a weight, (out, in), once. `multiply` takes rows, (n, in), a packed weight and the weight's scales,
    (out,), and returns rows @ weight.T * scales in float32, (n, out).
    """

    pack: Callable[[Tensor], Tensor]
    multiply: Callable[[Tensor, Tensor, Tensor], Tensor]


@cache
def find_linear(ops: Any = torch.ops) -> Linear:
    """Return the fastest float product.

    For float32 on a CPU that is oneDNN's: it is threaded and fast on every x86 processor, while the MKL behind
    F.linear is neither on AMD.
    """

    operator: Any = getattr(getattr(ops, "mkldnn", None), "_linear_pointwise", None)

    def onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if rows.dtype is not torch.float32 or rows.device.type != "cpu":
            return F.linear(rows, weight, bias)
        product: Tensor = operator.default(rows, weight, bias, *NO_POST_OP)
        return product

    return onednn if torch.backends.mkldnn.is_available() and _is_linear(onednn) else F.linear


@cache
def find_int8_product(ops: Any = torch.ops, cpu: Any = torch.cpu) -> Int8Product:
    """Return the fastest int8 product."""
    candidates = [_onednn_int8(ops), _plain_int8(ops)] if _has_vnni(cpu) else [_plain_int8(ops)]
    return next(filter(_is_int8_product, candidates), PUBLIC_INT8)


def _onednn_int8(ops: Any) -> Int8Product:
    zero_point = torch.zeros(1, dtype=torch.int32)

    def pack(weight: Tensor) -> Tensor:
        packed: Tensor = ops.onednn.qlinear_prepack.default(weight, None)
        return packed

    def multiply(rows: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
        # The processor multiplies unsigned by signed bytes; oneDNN subtracts what the offset adds to the sums.
        unsigned = rows.view(torch.uint8) + UINT8_OFFSET
        product: Tensor = ops.onednn.qlinear_pointwise.default(
            unsigned, 1.0, UINT8_OFFSET, packed, scales, zero_point, None, *FLOAT_RESULT, *NO_POST_OP
        )
        return product

    return Int8Product(pack, multiply)


def _plain_int8(ops: Any) -> Int8Product:
    def multiply(rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        product: Tensor = ops.aten._int_mm.default(rows, weight.t())
        return product.to(torch.float32).mul_(scales)

    return Int8Product(lambda weight: weight, multiply)


def _public_multiply(rows: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    sums = [rows.int() @ chunk.int().t() for chunk in weight.split(CHUNK)]
    return torch.cat(sums, -1).to(torch.float32).mul_(scales)


PUBLIC_INT8 = Int8Product(lambda weight: weight, _public_multiply)


def _has_vnni(cpu: Any) -> bool:
    """Return whether the processor sums products of bytes exactly and fast; without VNNI pairs of them overflow."""
    if hasattr(cpu, "get_capabilities"):
        return bool(cpu.get_capabilities().get("avx512_vnni"))
    # Older versions of torch.
    return bool(getattr(cpu, "_is_vnni_supported", lambda: False)())


def _is_linear(candidate: Linear) -> bool:
    """Return whether `candidate` works and is right up to rounding."""
    rows, weight = torch.linspace(-1, 1, 24).view(3, 8), torch.linspace(-2, 1, 40).view(5, 8)
    bias = torch.linspace(0, 1, 5)
    expected = (rows[:, None] * weight).sum(-1)
    try:
        return all(
            torch.allclose(candidate(rows, layout, bias), expected + bias, rtol=1e-4, atol=1e-5)
            and torch.allclose(candidate(rows, layout, None), expected, rtol=1e-4, atol=1e-5)
            for layout in (weight, weight.t().contiguous().t())
        )
    # A later torch may fail in any way.
    except Exception:
        return False


def _is_int8_product(candidate: Int8Product) -> bool:
    """Return whether `candidate` works and equals the public product, for the largest sums too."""
    numbers = torch.arange(4 * 256) % 255 - 127
    rows = torch.stack([*numbers.view(4, 256), torch.full((256,), 127)]).to(torch.int8)
    weight = torch.cat([rows.flip(0), rows, rows.neg()])
    scales = torch.linspace(0.5, 2, len(weight))
    try:
        product = candidate.multiply(rows, candidate.pack(weight), scales)
        return torch.equal(product, PUBLIC_INT8.multiply(rows, weight, scales))
    # A later torch may fail in any way.
    except Exception:
        return False
