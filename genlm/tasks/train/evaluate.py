"""How well a model in training does on text it is not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def mean_loss(model: Any, ids: Tensor, context: int, most_tokens: int, batch_size: int = 8) -> float:
    """The mean loss (nats a token) over windows of `context` that lie evenly in `ids`, `most_tokens` in all."""
    starts = range(0, max(1, len(ids) - 1), context)
    every = -(-len(starts) * context // most_tokens)
    chosen = starts[::every]
    total, count = 0.0, 0
    for at in range(0, len(chosen), batch_size):
        windows = [ids[start : start + context + 1] for start in chosen[at : at + batch_size]]
        nats, targets = _nats(model, windows, skip=[0] * len(windows))
        total, count = total + nats, count + targets
    return total / count


def sliding_nats(model: Any, ids: Tensor, context: int, stride: int, batch_size: int = 8) -> float:
    """Minus the log-probability, in nats, of every id but the first, each seen with a past as long as can be.

    Windows of `context` start every `stride` ids; a window counts only what the one before did not reach,
    so from the second window on every id has at least `context - stride` ids before it.
    """
    starts = range(0, max(1, len(ids) - 1 - context + stride), stride)
    total = 0.0
    for at in range(0, len(starts), batch_size):
        group = starts[at : at + batch_size]
        windows = [ids[start : start + context + 1] for start in group]
        total += _nats(model, windows, skip=[context - stride if start else 0 for start in group])[0]
    return total


def _nats(model: Any, windows: list[Tensor], skip: list[int]) -> tuple[float, int]:
    """The loss of windows in sum, but for the first `skip` targets of each, and how many targets that were."""
    import torch

    pad = torch.nn.utils.rnn.pad_sequence
    inputs = pad([window[:-1] for window in windows], batch_first=True)
    targets = pad([window[1:] for window in windows], batch_first=True, padding_value=-100)
    for row, count in enumerate(skip):
        targets[row, :count] = -100
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(inputs.to(device), use_cache=False).logits.flatten(0, 1).float()
        nats = torch.nn.functional.cross_entropy(logits, targets.flatten().to(device), reduction="sum").item()
    model.train(was_training)
    return nats, int((targets != -100).sum())
