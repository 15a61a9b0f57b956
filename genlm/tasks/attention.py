"""Compute how much each token of a prompt attends to the others, in every layer and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genlm.errors import ModelError, UsageError
from genlm.model.pieces import Pieces
from genlm.records.generation import Overflow
from genlm.records.inspection import AttentionCheck, AttentionMaps, Head
from genlm.tasks.generate import encode_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.model.load import Model


def look_at_attention(
    model: Model,
    prompt: str,
    *,
    layer: int | None = None,
    head: int | None = None,
    check: bool = False,
    overflow: Overflow = "error",
) -> AttentionMaps:
    """Return the attention weights of `prompt` in one layer and head or in all; both count from 0.

    `check` also recomputes all weights from the queries and keys, and reports the largest difference.

    Raises:
        UsageError: a layer or head that the model does not have.
        InputError: a prompt that the model cannot take.
        ModelError: a model without attention, or weights that are not numbers.
    """
    ids = encode_prompt(model, prompt, 0, overflow)
    layers = model.network.attention(ids)
    _check_range("layer", layer, len(layers))
    for weights in layers if layer is None else [layers[layer]]:
        _check_range("head", head, len(weights))
    if not all(bool(weights.isfinite().all()) for weights in layers):
        raise ModelError(
            "the model's attention weights are not numbers (NaN or infinite)",
            hint="the weights may be damaged, or float16 too narrow for this model",
        )
    return AttentionMaps(
        model.info,
        prompt,
        tuple(Pieces(model.tokenizer).tokens_of_ids(ids)),
        len(layers),
        max(map(len, layers)),
        tuple(
            Head(number, at, weights[at].tolist())
            for number, weights in enumerate(layers)
            if layer in (None, number)
            for at in range(len(weights))
            if head in (None, at)
        ),
        _check(model, ids, layers) if check else None,
    )


def _check_range(name: str, value: int | None, count: int) -> None:
    if value is not None and not 0 <= value < count:
        raise UsageError(f"the model has no {name} {value}", hint=f"its {name}s are 0 to {count - 1}")


def _check(model: Model, ids: Sequence[int], layers: Sequence[Tensor]) -> AttentionCheck:
    import torch

    from genlm.model.attention import softmax_of

    # MPS has no float64.
    precise = torch.float32 if layers[0].device.type == "mps" else torch.float64
    recomputed = (softmax_of(made, precise) for made in model.network.queries_and_keys(ids))
    return AttentionCheck(
        max((weights - again).abs().max().item() for weights, again in zip(layers, recomputed, strict=True)),
        max((weights.double().sum(-1) - 1).abs().max().item() for weights in layers),
        max(weights.triu(1).abs().max().item() for weights in layers),
    )
