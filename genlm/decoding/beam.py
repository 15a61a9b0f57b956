"""Beam search, token for token as transformers' `generate` does it.

At every step the likeliest continuations of all beams are ranked together. Those that end become hypotheses,
scored by log-probability / length ** length_penalty; the best of the others go on as the next beams.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from genlm.decoding.checks import require_memory, require_numbers
from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled
from genlm.decoding.filters import make_filters
from genlm.decoding.request import Request
from genlm.decoding.text import TextStream
from genlm.errors import ModelError
from genlm.model.network import Network


@dataclass(frozen=True)
class Beam:
    """A sequence: its new tokens and their text, the strategy's score (nats) and the model's own log-probability.

    `parent` is the place of the beam that it grew from; `reason` says whether and why it has ended.
    """

    ids: tuple[int, ...]
    text: TextStream
    score: float
    logprob: float
    parent: int
    reason: FinishReason | None


@dataclass(frozen=True)
class Hypothesis:
    """A beam that has ended, with its score after the length penalty."""

    beam: Beam
    reason: FinishReason
    score: float


def beam_search(network: Network, request: Request) -> Iterator[Event]:
    """The `request.count` best hypotheses, best first.

    Raises:
        ModelError: more beams than the memory holds, or fewer sequences to be found than asked for.
    """
    search = _Search(request)
    require_memory(network, request, "num_beams", search.num_beams)
    logits, cache = network.prefill([request.prompt_ids], request.max_new_tokens)
    yield Prefilled()
    while True:
        search.extend(logits)
        if search.is_over():
            break
        cache = cache.take(torch.tensor([beam.parent for beam in search.beams], device=logits.device))
        logits = cache.step(torch.tensor([beam.ids[-1] for beam in search.beams], device=logits.device))
    for index, hypothesis in enumerate(search.best()):
        yield from _tell(index, hypothesis)


class _Search:
    """The state between two steps: the beams under way and the best hypotheses so far, each best first."""

    def __init__(self, request: Request) -> None:
        fields = cast(dict[str, Any], request.strategy.fields)
        self.num_beams: int = fields["num_beams"]
        self.length_penalty: float = fields["length_penalty"]
        self.early_stopping: bool | str = fields["early_stopping"]
        self.request = request
        self.filters = make_filters(request.strategy)
        text = TextStream(request.decode, request.prompt_ids, request.stop)
        self.beams = [Beam((), text, score=0.0, logprob=0.0, parent=0, reason=None)]
        self.hypotheses: list[Hypothesis] = []
        # Enough that num_beams are left to go on even where an end token follows all the best ones.
        self.width = max(2, 1 + len(request.eos_ids)) * self.num_beams

    def extend(self, logits: Tensor) -> None:
        """Grow every beam by one token, keep the best of those that ended and go on with the best others."""
        going_on: list[Beam] = []
        ended: list[Hypothesis] = []
        for rank, beam in enumerate(self._candidates(logits)):
            if beam.reason is None:
                going_on.append(beam)
            # The candidates after the first num_beams are there to go on with, not to end.
            elif rank < self.num_beams:
                ended.append(self._hypothesis(beam, beam.reason))
            if len(going_on) == self.num_beams:
                break
        self.beams = going_on
        self.hypotheses = sorted(self.hypotheses + ended, key=lambda each: each.score, reverse=True)[: self.num_beams]

    def is_over(self) -> bool:
        """Whether no further step can matter, by transformers' rules."""
        if not self.beams:
            return True
        if len(self.hypotheses) < self.num_beams:
            return False
        return self.early_stopping is True or self._best_possible() <= self.hypotheses[-1].score

    def best(self) -> list[Hypothesis]:
        """As many hypotheses as asked for. Raises ModelError where there are fewer."""
        count = self.request.count
        if len(self.hypotheses) < count:
            raise ModelError(
                f"{self.request.strategy.spec} finds {len(self.hypotheses)} different sequences here, not {count}",
                hint="ask for fewer, or rule out fewer tokens",
            )
        return self.hypotheses[:count]

    def _best_possible(self) -> float:
        """The score that the best beam under way is taken to end with at best."""
        is_optimistic = self.early_stopping == "never" and self.length_penalty > 0.0
        length = self.request.max_new_tokens if is_optimistic else len(self.beams[0].ids)
        return self._penalised(self.beams[0].score, length)

    def _candidates(self, logits: Tensor) -> Iterator[Beam]:
        """The `width` likeliest continuations of all beams together, likeliest first."""
        require_numbers(logits.logsumexp(-1), len(self.beams[0].ids))
        logprobs = logits.log_softmax(-1)
        scores = self._filtered(logprobs)
        scores = scores + torch.tensor([beam.score for beam in self.beams], device=logits.device)[:, None]
        best = scores.flatten().topk(min(self.width, scores.numel()))
        own = logprobs.flatten()[best.indices]
        vocab = scores.shape[-1]
        for at, score, logprob in zip(best.indices.tolist(), best.values.tolist(), own.tolist(), strict=True):
            if score > -torch.inf:
                yield self._grown(at // vocab, at % vocab, score, logprob)

    def _filtered(self, scores: Tensor) -> Tensor:
        if self.filters:
            history = [[*self.request.prompt_ids, *beam.ids] for beam in self.beams]
            for apply in self.filters:
                scores = apply(scores, history)
        return scores

    def _grown(self, parent: int, token: int, score: float, logprob: float) -> Beam:
        beam = self.beams[parent]
        ids, text = (*beam.ids, token), beam.text.fork()
        reason = self._reason(ids, text)
        return Beam(ids, text, score, beam.logprob + logprob, parent, reason)

    def _reason(self, ids: tuple[int, ...], text: TextStream) -> FinishReason | None:
        """Add the last token's text; whether and why the sequence ends there."""
        is_end = ids[-1] in self.request.eos_ids
        reason: FinishReason | None = "eos" if is_end else None
        if not is_end:
            text.push(ids[-1])
            reason = "length" if len(ids) == self.request.max_new_tokens else None
        if reason:
            text.finish()
        return "stop" if text.stopped else reason

    def _hypothesis(self, beam: Beam, reason: FinishReason) -> Hypothesis:
        return Hypothesis(beam, reason, self._penalised(beam.score, len(beam.ids)))

    def _penalised(self, score: float, length: int) -> float:
        return score / float(length**self.length_penalty)


def _tell(index: int, hypothesis: Hypothesis) -> Iterator[Piece | Completion]:
    beam = hypothesis.beam
    if beam.text.text:
        yield Piece(index, beam.text.text)
    yield Completion(index, beam.text.text, beam.ids, hypothesis.reason, beam.logprob)
