"""Decoding by transformers' own `generate`, every field pinned: the reference for genlm's loops, and the fallback.

All events come at the end, because `generate` returns all sequences at once. It draws from torch's generator, seeded
with the request's seed, and not from genlm's random streams. So a sample depends on how many are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from genlm.decoding.completion import (
    INCOMPLETE,
    Completion,
    Event,
    FinishReason,
    Piece,
    Prefilled,
    TextStream,
    first_stop,
)
from genlm.decoding.distribution import score_tokens
from genlm.decoding.kinds.standard import NUM_BEAMS
from genlm.decoding.request import Request
from genlm.decoding.strategy import transformers_settings
from genlm.model.adapter import TransformersModel
from genlm.model.memory import check_rows


def stock_generate(network: TransformersModel, request: Request) -> Iterator[Event]:
    """Yield the sequences that `generate` returns, in its order.

    Raises:
        UsageError: a strategy that transformers does not have.
        ModelError: logits that are not numbers, or more sequences than fit in memory.
    """
    settings: dict[str, object] = {
        **transformers_settings(request.strategy),
        "max_new_tokens": request.max_new_tokens,
        "num_return_sequences": request.count,
        "eos_token_id": sorted(request.eos_ids) or None,
        "bad_words_ids": [list(word) for word in request.bad_words_ids] or None,
    }
    beams = request.strategy.get(NUM_BEAMS) or 1
    name = "num_beams" if beams > 1 else "num_return_sequences"
    check_rows(network, name, max(beams, request.count), request.max_length)
    yield Prefilled()

    def has_stop(ids: Sequence[int]) -> bool:
        # A character that is incomplete at the end may still become another one.
        return first_stop(request.decode(list(ids)).rstrip(INCOMPLETE), request.stop) is not None

    rows = network.generate(request.prompt_ids, settings, request.seed, has_stop if request.stop else None)
    for index, ids in enumerate(rows):
        completion = _completion(network, request, index, ids)
        if completion.text:
            yield Piece(index, completion.text)
        yield completion


def _completion(network: TransformersModel, request: Request, index: int, ids: Sequence[int]) -> Completion:
    """Return a row of `generate` as a completion, without the padding at its end."""
    text = TextStream(request.decode, request.prompt_ids, request.stop)
    reason: FinishReason = "length"
    new_ids: list[int] = []
    for token in ids:
        new_ids.append(token)
        if token in request.eos_ids:
            reason = "eos"
            break
        text.push(token)
        if text.stopped:
            break
    text.finish()
    logits = network.logits_of([[*request.prompt_ids, *new_ids[:-1]]], [len(request.prompt_ids) - 1])
    logprob = float(score_tokens(logits, torch.tensor(new_ids, device=logits.device)).logprobs.sum())
    return Completion(index, text.text, tuple(new_ids), "stop" if text.stopped else reason, logprob)
