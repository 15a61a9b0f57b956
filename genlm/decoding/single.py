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
    reason = None
    while reason is None:
        token, logprob = choose(row.ids)
        row.logprob += logprob
        text, reason = grow(row, token)
        if text:
            yield Piece(row.index, text)
    yield completion(row, reason)
