"""Numbers of a next token's distribution: its entropy, and the log-probability and rank of a token; all in nats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from genlm.errors import ModelError

# Rows of logits are scored in groups of this many numbers, which keeps copies small.
GROUP = 1 << 22


@dataclass(frozen=True)
class Scores:
    """The log-probability and rank (from 1) of each row's token, and the row's entropy; each of shape (n,)."""

    logprobs: Tensor
    ranks: Tensor
    entropies: Tensor


def score_tokens(logits: Tensor, tokens: Tensor) -> Scores:
    """Return how likely each row's token is. `logits`: (n, vocab), `tokens`: (n,).

    Raises:
        ModelError: logits that are not numbers.
    """
    groups = [_score(rows, wanted) for rows, wanted in _grouped(logits, tokens)]
    return Scores(*(torch.cat(parts) for parts in zip(*groups, strict=True)))


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each row, (n, vocab) to (n,); a token at -inf is ruled out."""
    surprise: Tensor = torch.special.entr(logits.softmax(-1))
    return surprise.sum(-1)


def log_total(logits: Tensor) -> Tensor:
    """Return the log of each row's sum of exponentials, (n, vocab) to (n,), from its largest probability.

    `logsumexp` gives the same and takes twice as long.
    """
    return logits.amax(-1) - logits.softmax(-1).amax(-1).log()


def check_logits(logits: Tensor) -> Tensor:
    """Return the log of each row's sum of exponentials, (n, vocab) to (n,). Raises ModelError if it is not a number."""
    total = log_total(logits)
    if not bool(total.isfinite().all()):
        raise ModelError(
            "the model's logits are not numbers (NaN or infinite)",
            hint="its weights may be damaged, or float16 too narrow for it",
        )
    return total


def _grouped(logits: Tensor, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, GROUP // logits.shape[-1])
    return zip(logits.split(size), tokens.split(size), strict=True)


def _score(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = check_logits(logits)
    wanted = logits.gather(-1, tokens[:, None])
    # Tokens that tie share the rank of the first.
    return wanted[:, 0] - total, (logits > wanted).sum(-1) + 1, entropy(logits)
