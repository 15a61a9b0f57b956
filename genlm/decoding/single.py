"""The frame of the loops that have one sequence to give: it grows by the token that a search picks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from genlm.decoding.completion import Completion, Piece
from genlm.decoding.randomness import streams
from genlm.decoding.request import Request
from genlm.decoding.sampling import completion, grow, start

# Given all token ids so far, the prompt's included: the next token and its log-probability under the model.
Choose: TypeAlias = Callable[[Sequence[int]], tuple[int, float]]


def follow(request: Request, choose: Choose) -> Iterator[Piece | Completion]:
    """The one completion that `choose` makes, piece by piece."""
    row = start(request, 0, streams(request.seed, request.prompt_ids)(0))
    for step in range(request.max_new_tokens):
        token, logprob = choose(row.ids)
        row.logprob += logprob
        reason = yield from grow(row, token, request, is_last=step + 1 == request.max_new_tokens)
        if reason is not None:
            yield completion(row, request, reason)
            return
