"""How likely the model found each generated token, and which others it found likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genlm.decoding.completion import Alternative, Completion, Event, TracedToken
from genlm.decoding.distribution import group_size, score_tokens
from genlm.decoding.processors import request_processors
from genlm.decoding.request import Request
from genlm.model.network import Network
from genlm.model.pieces import Pieces

ALTERNATIVES = 5


def trace_tokens(logits: Tensor, scores: Tensor, tokens: Tensor, pieces: Pieces) -> list[TracedToken]:
    """Return the trace of each row's token.

    `logits` are the model's own and `scores` those after the logits processors, both (n, vocab); `tokens`: (n,).
    """
    found = score_tokens(logits, tokens)
    probabilities = logits.softmax(-1)
    is_left = ~scores.isneginf()
    best = probabilities.topk(min(ALTERNATIVES, logits.shape[-1]))
    columns = (
        tokens,
        found.logprobs,
        probabilities.gather(-1, tokens[:, None])[:, 0],
        found.ranks,
        found.entropies,
        is_left.sum(-1),
        probabilities.where(is_left, 0).sum(-1).clamp(max=1),
        best.indices,
        best.values,
    )

    def alternatives(ids: list[int], values: list[float]) -> tuple[Alternative, ...]:
        return tuple(
            Alternative(id, pieces.text_of(id), value, pieces.incomplete_bytes(id))
            for id, value in zip(ids, values, strict=True)
        )

    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        TracedToken(
            pieces.text_of(id),
            id,
            *(logprob, probability, rank, entropy, candidates, mass),
            alternatives(ids, values),
            pieces.incomplete_bytes(id),
        )
        for id, logprob, probability, rank, entropy, candidates, mass, ids, values in rows
    ]


def add_traces(network: Network, request: Request, pieces: Pieces, events: Iterator[Event]) -> Iterator[Event]:
    """Yield a loop's events, with a trace added to each completion that lacks one by one more forward pass."""
    for event in events:
        if isinstance(event, Completion) and event.trace is None:
            event = replace(event, trace=tuple(_trace(network, request, pieces, event.token_ids)))
        yield event


def trace_text(network: Network, before: Sequence[int], text: Sequence[int], pieces: Pieces) -> list[TracedToken]:
    """Return the trace of a text that the model did not write, after at least one other token, without processors."""
    groups = _logits_of(network, before, text)
    return [traced for _, own, tokens in groups for traced in trace_tokens(own, own, tokens, pieces)]


def _trace(network: Network, request: Request, pieces: Pieces, new: tuple[int, ...]) -> Iterator[TracedToken]:
    ids = [*request.prompt_ids, *new]
    before = len(request.prompt_ids)
    processors = request_processors(request)
    for start, own, tokens in _logits_of(network, request.prompt_ids, new):
        history = [ids[: before + at] for at in range(start, start + len(own))]
        yield from trace_tokens(own, processors(own, history), tokens, pieces)


def _logits_of(network: Network, before: Sequence[int], text: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield groups of a text's tokens: the index of the first, the logits each was drawn from, and the tokens."""
    logits = network.logits_of([[*before, *text][:-1]], [len(before) - 1])
    size = group_size(logits)
    for start in range(0, len(text), size):
        own = logits[start : start + size]
        yield start, own, torch.tensor(text[start : start + size], device=own.device)
