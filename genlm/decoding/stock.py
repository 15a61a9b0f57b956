"""Decoding by transformers' own `generate`, every field pinned: the reference for genlm's loops, and the way out.

It tells nothing before all sequences are there, so their events come together at the end. Its draws come from torch's
generator, seeded by the request: other numbers than genlm's streams, and a sample depends on how many are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from genlm.decoding.checks import require_memory
from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled
from genlm.decoding.distribution import score_tokens
from genlm.decoding.equivalent import stock_settings
from genlm.decoding.request import Request
from genlm.decoding.text import INCOMPLETE, TextStream, first_stop
from genlm.model.stock import StockModel


def stock_generate(network: StockModel, request: Request) -> Iterator[Event]:
    """The sequences that `generate` returns, in its order. The prompt counts as encoded from the start.

    Raises:
        UsageError: a strategy that transformers does not have.
        ModelError: logits that are not numbers, or more sequences than the memory holds.
    """
    settings: dict[str, object] = {
        **stock_settings(request.strategy),
        "max_new_tokens": request.max_new_tokens,
        "num_return_sequences": request.count,
        "eos_token_id": sorted(request.eos_ids) or None,
        "bad_words_ids": [list(word) for word in request.bad_words_ids] or None,
    }
    beams = int(request.strategy.fields.get("num_beams", 1))
    require_memory(network, request, "num_beams" if beams > 1 else "num_return_sequences", max(beams, request.count))
    yield Prefilled()
    ends = _Ends(request) if request.stop else None
    for index, ids in enumerate(network.generate(request.prompt_ids, settings, request.seed, ends)):
        completion = _completion(network, request, index, ids)
        if completion.text:
            yield Piece(index, completion.text)
        yield completion


class _Ends:
    """Whether new tokens hold one of the stop texts."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def __call__(self, ids: Sequence[int]) -> bool:
        # What ends in part of a character is not certain yet.
        text = self.request.decode(list(ids)).rstrip(INCOMPLETE)
        return first_stop(text, self.request.stop) is not None


def _completion(network: StockModel, request: Request, index: int, ids: Sequence[int]) -> Completion:
    """A row that `generate` has returned, without the padding at its end."""
    text = TextStream(request.decode, request.prompt_ids, request.stop)
    reason: FinishReason = "length"
    taken: list[int] = []
    for token in ids:
        taken.append(token)
        if token in request.eos_ids:
            reason = "eos"
            break
        text.push(token)
        if text.stopped:
            break
    text.finish()
    logprob = _logprob(network, request.prompt_ids, taken)
    return Completion(index, text.text, tuple(taken), "stop" if text.stopped else reason, logprob)


def _logprob(network: StockModel, prompt: Sequence[int], new: Sequence[int]) -> float:
    """The log-probability of new tokens under the model alone, in nats."""
    logits = network.logits_of([[*prompt, *new[:-1]]], [len(prompt) - 1])
    return float(score_tokens(logits, torch.tensor(new, device=logits.device)).logprobs.sum())
