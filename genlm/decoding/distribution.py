"""Numbers of a next token's distribution: its entropy, and the log-probability and rank of a token; all in nats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genlm.errors import ModelError

# Rows of logits are handled in groups of this many numbers, which keeps copies small.
GROUP = 1 << 22


class Scores(NamedTuple):
    """The log-probability and rank (from 1) of each row's token, and the row's entropy; each of shape (n,)."""

    logprobs: Tensor
    ranks: Tensor
    entropies: Tensor


def score_tokens(logits: Tensor, tokens: Tensor) -> Scores:
    """Return how likely each row's token is. `logits`: (n, vocab), `tokens`: (n,).

    Raises:
        ModelError: logits that are not numbers.
    """
    size = group_size(logits)
    groups = [_score(*group) for group in zip(logits.split(size), tokens.split(size), strict=True)]
    return Scores(*(torch.cat(parts) for parts in zip(*groups, strict=True)))


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each row, (n, vocab) to (n,); a token at -inf is ruled out."""
    surprise: Tensor = torch.special.entr(logits.softmax(-1))
    return surprise.sum(-1)


def check_logits(logits: Tensor, new_tokens: int | None = None) -> Tensor:
    """Return the log of each row's sum of exponentials, (n, vocab) to (n,). Raise ModelError if one is not finite.

    `new_tokens` is how many tokens have been generated; if it is given, the error says which one could not be.
    """
    # From the largest probability, because `logsumexp` takes twice as long.
    total = logits.amax(-1) - logits.softmax(-1).amax(-1).log()
    if not bool(total.isfinite().all()):
        where = "" if new_tokens is None else f" at new token {new_tokens + 1}"
        raise ModelError(
            f"the model's logits are not numbers (NaN or infinite){where}",
            hint="the weights may be damaged, or float16 too narrow for this model",
        )
    return total


def group_size(logits: Tensor) -> int:
    """Return how many rows of logits, (n, vocab), make a group."""
    return max(1, GROUP // logits.shape[-1])


def _score(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = check_logits(logits)
    wanted = logits.gather(-1, tokens[:, None])
    # Tokens that tie share the rank of the first.
    return wanted[:, 0] - total, (logits > wanted).sum(-1) + 1, entropy(logits)
