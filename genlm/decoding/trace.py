"""What a model made of every token that was generated: how likely it was, and what else there was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genlm.decoding.completion import Alternative, Completion, Event, TracedToken
from genlm.decoding.distribution import score_tokens
from genlm.decoding.filters import request_filters
from genlm.decoding.request import Request
from genlm.model.network import Network
from genlm.model.pieces import Pieces

ALTERNATIVES = 5
# Rows of logits are filtered in groups of this many numbers, which keeps the copies small.
GROUP = 1 << 22


def trace_tokens(logits: Tensor, filtered: Tensor, tokens: Tensor, pieces: Pieces) -> list[TracedToken]:
    """What was made of each row's token. `logits`, the model's own, and `filtered`: (n, vocab); `tokens`: (n,)."""
    scores = score_tokens(logits, tokens)
    probabilities = logits.softmax(-1)
    is_left = ~filtered.isneginf()
    mass = probabilities.where(is_left, 0).sum(-1).clamp(max=1)
    best = probabilities.topk(min(ALTERNATIVES, logits.shape[-1]))
    columns = (
        tokens,
        scores.logprobs,
        probabilities.gather(-1, tokens[:, None])[:, 0],
        scores.ranks,
        scores.entropies,
        is_left.sum(-1),
        mass,
        best.indices,
        best.values,
    )
    return [_traced(pieces, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def add_traces(network: Network, request: Request, pieces: Pieces, events: Iterator[Event]) -> Iterator[Event]:
    """The events of a loop that keeps no trace of its own, each completion with one, from one more forward pass."""
    for event in events:
        if isinstance(event, Completion) and event.trace is None:
            event = replace(event, trace=tuple(_trace(network, request, pieces, event.token_ids)))
        yield event


def trace_text(network: Network, before: Sequence[int], text: Sequence[int], pieces: Pieces) -> list[TracedToken]:
    """What the model makes of a text that it did not write, after at least one token before it; nothing is filtered."""
    groups = _logits_of(network, before, text)
    return [traced for _, own, tokens in groups for traced in trace_tokens(own, own, tokens, pieces)]


def _trace(network: Network, request: Request, pieces: Pieces, new: tuple[int, ...]) -> Iterator[TracedToken]:
    ids = [*request.prompt_ids, *new]
    before = len(request.prompt_ids)
    filters = request_filters(request)
    for start, own, tokens in _logits_of(network, request.prompt_ids, new):
        # Beams are filtered as log-probabilities, in which a repetition penalty acts otherwise.
        filtered = own.log_softmax(-1) if "num_beams" in request.strategy.fields else own
        history = [ids[: before + at] for at in range(start, start + len(own))]
        for apply in filters:
            filtered = apply(filtered, history)
        yield from trace_tokens(own, filtered, tokens, pieces)


def _logits_of(network: Network, before: Sequence[int], text: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The logits that each token of a text was drawn from, and the tokens, in groups with the place of the first."""
    logits = network.logits_of([[*before, *text][:-1]], [len(before) - 1])
    size = max(1, GROUP // logits.shape[-1])
    for start in range(0, len(text), size):
        own = logits[start : start + size]
        yield start, own, torch.tensor(text[start : start + size], device=own.device)


def _traced(
    pieces: Pieces,
    token: int,
    logprob: float,
    probability: float,
    rank: int,
    entropy: float,
    candidates: int,
    mass: float,
    best: list[int],
    best_probabilities: list[float],
) -> TracedToken:
    alternatives = tuple(
        Alternative(each, pieces.text_of(each), its, _split(pieces, each))
        for each, its in zip(best, best_probabilities, strict=True)
    )
    return TracedToken(
        pieces.text_of(token),
        token,
        logprob,
        probability,
        rank,
        entropy,
        candidates,
        mass,
        alternatives,
        _split(pieces, token),
    )


def _split(pieces: Pieces, token: int) -> bytes | None:
    return None if pieces.is_whole(token) else pieces.bytes_of(token)
