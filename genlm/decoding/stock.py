"""Decoding by transformers' own `generate`, every field pinned: the reference for genlm's loops, and the fallback.

All events come at the end, because `generate` returns all sequences at once. It draws from torch's generator, seeded
with the request's seed: other numbers than genlm's random streams, so a sample depends on how many are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled
from genlm.decoding.distribution import score_tokens
from genlm.decoding.kinds.standard import NUM_BEAMS
from genlm.decoding.request import Request
from genlm.decoding.strategy import transformers_settings
from genlm.decoding.text import INCOMPLETE, TextStream, first_stop
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
    has_ended = partial(_has_stop, request) if request.stop else None
    for index, ids in enumerate(network.generate(request.prompt_ids, settings, request.seed, has_ended)):
        completion = _completion(network, request, index, ids)
        if completion.text:
            yield Piece(index, completion.text)
        yield completion


def _has_stop(request: Request, ids: Sequence[int]) -> bool:
    """Return whether the text of new tokens contains a stop text."""
    # A character that is incomplete at the end may still become another one.
    text = request.decode(list(ids)).rstrip(INCOMPLETE)
    return first_stop(text, request.stop) is not None


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
    logprob = _logprob(network, request.prompt_ids, new_ids)
    return Completion(index, text.text, tuple(new_ids), "stop" if text.stopped else reason, logprob)


def _logprob(network: TransformersModel, prompt: Sequence[int], new: Sequence[int]) -> float:
    """Return the log-probability of new tokens under the model, before any logits processor, in nats."""
    logits = network.logits_of([[*prompt, *new[:-1]]], [len(prompt) - 1])
    return float(score_tokens(logits, torch.tensor(new, device=logits.device)).logprobs.sum())
