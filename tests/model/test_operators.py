"""Private operators of torch: each has a public replacement, which is used when the operator is missing or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support.models import load
from torch import Tensor

from genlm.model.operators import find_int8_product, find_linear


def fails(*_: Any) -> Tensor:
    raise RuntimeError("this operator has other arguments now")


def wrong(*_: Any) -> Tensor:
    return torch.ones(3, 5)


def ops(operator: Callable[..., Tensor] | None) -> ModuleType:
    """Torch's operators with every private one replaced, or none at all."""
    module = ModuleType("ops")
    names = {"mkldnn": ("_linear_pointwise",), "onednn": ("qlinear_prepack", "qlinear_pointwise"), "aten": ("_int_mm",)}
    for namespace, operators in names.items() if operator else ():
        setattr(module, namespace, ModuleType(namespace))
        for name in operators:
            packet = ModuleType(name)
            packet.default = operator  # type: ignore[attr-defined]
            setattr(getattr(module, namespace), name, packet)
    return module


UNUSABLE = pytest.mark.parametrize("operator", [None, fails, wrong], ids=["missing", "failing", "wrong"])


@UNUSABLE
def test_a_linear_layer_without_the_private_operator_is_equal_up_to_rounding(operator: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((7, 64), (64, 96), (96,)))
    plain = find_linear(ops(operator))
    assert plain is torch.nn.functional.linear
    for term in (bias, None):
        torch.testing.assert_close(plain(rows, weight.t(), term), find_linear()(rows, weight.t(), term))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_runs(dtype: torch.dtype) -> None:
    rows, weight = torch.eye(4, dtype=dtype), torch.arange(12.0, dtype=dtype).view(3, 4)
    product = find_linear()(rows, weight, None)
    assert product.dtype is dtype
    assert product.equal(weight.t())


def largest_and_random() -> tuple[Tensor, Tensor, Tensor]:
    """Rows, a weight and its scales, with the largest sums there are, which would overflow 16 bits in pairs."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-127, 128, (5, 3072), generator=generator, dtype=torch.int8)
    weight = torch.randint(-127, 128, (40, 3072), generator=generator, dtype=torch.int8)
    rows[0], weight[0], weight[1] = 127, 127, -127
    return rows, weight, torch.rand(40, generator=generator)


@UNUSABLE
def test_int8_without_the_private_operators_is_exactly_equal(operator: Callable[..., Tensor]) -> None:
    rows, weight, scales = largest_and_random()
    public, fast = find_int8_product(ops(operator)), find_int8_product()
    expected = fast.multiply(rows, fast.pack(weight), scales)
    assert public.multiply(rows, public.pack(weight), scales).equal(expected)
    assert expected[0, 0] == (127 * 127 * 3072 * scales[0])


def test_int8_without_vnni_is_exactly_equal() -> None:
    rows, weight, scales = largest_and_random()
    fast = find_int8_product()
    for cpu in (without_vnni(), ModuleType("no information")):
        product = find_int8_product(torch.ops, cpu)
        assert product.pack(weight) is weight
        assert product.multiply(rows, weight, scales).equal(fast.multiply(rows, fast.pack(weight), scales))


def without_vnni() -> ModuleType:
    cpu = ModuleType("cpu")
    cpu.get_capabilities = lambda: {"avx512_vnni": False}  # type: ignore[attr-defined]
    return cpu


def test_vnni_is_found_in_older_versions_of_torch() -> None:
    cpu = ModuleType("cpu")
    cpu._is_vnni_supported = lambda: True  # type: ignore[attr-defined]
    rows, weight, scales = largest_and_random()
    product, plain = find_int8_product(torch.ops, cpu), find_int8_product(ops(None))
    assert product.multiply(rows, product.pack(weight), scales).equal(plain.multiply(rows, weight, scales))


def test_a_model_without_the_private_operators_gives_the_same_logits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [5, 9, 200, 31]
    fast = {dtype: load(tiny, dtype=dtype).network.logits_of([ids], [0]) for dtype in ("float32", "int8")}
    for finder in (find_linear, find_int8_product):
        finder.cache_clear()
    for namespace in ("mkldnn", "onednn"):
        monkeypatch.setattr(torch.ops, namespace, ModuleType(namespace))
    try:
        assert find_linear() is torch.nn.functional.linear
        plain = {dtype: load(tiny, dtype=dtype).network.logits_of([ids], [0]) for dtype in fast}
    finally:
        for finder in (find_linear, find_int8_product):
            finder.cache_clear()
    torch.testing.assert_close(plain["float32"], fast["float32"], rtol=1e-4, atol=1e-4)
    assert plain["int8"].equal(fast["int8"])
