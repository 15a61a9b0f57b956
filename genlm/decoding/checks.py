"""What must hold at every step before a token can be chosen."""

from __future__ import annotations

from torch import Tensor

from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError


def require_numbers(total: Tensor, step: int) -> None:
    """Raise ModelError unless the log of each row's summed exponentials, (rows,), is a number.

    `step` counts the new tokens before this one.
    """
    if not bool(total.isfinite().all()):
        raise ModelError(
            f"the model's logits are not numbers (NaN or infinite) at new token {step + 1}",
            hint="its weights may be damaged, or --dtype float16 too narrow for it",
        )


def require_choice(filtered: Tensor, strategy: Strategy, step: int) -> None:
    """Raise ModelError where the strategy has left a row of logits, (rows, vocab), no token to choose."""
    if not bool(filtered.amax(-1).isfinite().all()):
        raise ModelError(
            f"{strategy.spec} leaves no token to choose at new token {step + 1}",
            hint="a larger no_repeat_ngram_size, or a repetition_penalty nearer to 1, rules out less",
        )
