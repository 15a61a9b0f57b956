"""What must hold before a loop starts, and at every step before a token can be chosen."""

from __future__ import annotations

from torch import Tensor

from genlm.decoding.request import Request
from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError
from genlm.model.memory import free_bytes
from genlm.model.network import Network


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


def require_memory(network: Network, request: Request, field: str, rows: int) -> None:
    """Raise ModelError where the rows that a field of the strategy asks for are beyond the memory."""
    needed = rows * network.row_bytes(len(request.prompt_ids) + request.max_new_tokens)
    free = free_bytes(network.device)
    if needed > free:
        raise ModelError(
            f"{field}={rows} needs about {_gigabytes(needed)}, and {_gigabytes(free)} are free",
            hint=f"a smaller {field} or fewer new tokens take less",
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
