"""Beam search, token for token as transformers' `generate` does it.

At every step the likeliest continuations of all beams are ranked together. Those that end become hypotheses,
scored by log-probability / length ** length_penalty; the best of the others go on as the next beams.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled
from genlm.decoding.filters import make_filters
from genlm.decoding.request import Request
from genlm.decoding.text import TextStream
from genlm.errors import ModelError
from genlm.model.network import Network

# What stands for "impossible" in a score, as in transformers: large, but sums of it stay finite.
IMPOSSIBLE = -1.0e9


@dataclass(frozen=True)
class Beam:
    """A sequence under way: its new tokens, the strategy's score (nats) and the model's own log-probability."""

    ids: tuple[int, ...]
    score: float
    logprob: float


@dataclass(frozen=True)
class Hypothesis:
    """A sequence that has ended, with its score after the length penalty."""

    ids: tuple[int, ...]
    score: float
    logprob: float
    reason: FinishReason


@dataclass(frozen=True)
class Candidate:
    """A beam with one token more: `reason` tells whether and why it ends there."""

    beam: Beam
    parent: int
    reason: FinishReason | None

    def score_to_go_on(self) -> float:
        """The score as a next beam, which what has ended is all but ruled out from."""
        return self.beam.score + (IMPOSSIBLE if self.reason else 0.0)


def beam_search(network: Network, request: Request) -> Iterator[Event]:
    """The `request.count` best hypotheses, best first."""
    search = _Search(request)
    logits, cache = network.prefill([request.prompt_ids], request.max_new_tokens)
    yield Prefilled()
    start = torch.zeros(search.num_beams, dtype=torch.long, device=logits.device)
    logits, cache = logits[start], cache.take(start)
    while True:
        parents = search.extend(logits)
        if search.is_over():
            break
        tokens = torch.tensor([beam.ids[-1] for beam in search.beams], device=logits.device)
        cache = cache.take(torch.tensor(parents, device=logits.device))
        logits = cache.step(tokens)
    for index, hypothesis in enumerate(search.hypotheses[: request.count]):
        completion = _completion(index, hypothesis, request)
        yield Piece(index, completion.text)
        yield completion


class _Search:
    """The state between two steps: the beams under way and the best hypotheses so far."""

    def __init__(self, request: Request) -> None:
        fields = cast(dict[str, Any], request.strategy.fields)
        self.num_beams: int = fields["num_beams"]
        self.length_penalty: float = fields["length_penalty"]
        self.early_stopping: bool | str = fields["early_stopping"]
        self.request = request
        self.filters = make_filters(request.strategy)
        # Only the first beam counts at first, for all are the same.
        self.beams = [Beam((), 0.0 if n == 0 else IMPOSSIBLE, 0.0) for n in range(self.num_beams)]
        self.hypotheses: list[Hypothesis] = []
        self.can_improve = True
        self.all_ended = False
        # Enough that num_beams are left to go on even where all the best ones end.
        self.width = max(2, 1 + len(request.eos_ids)) * self.num_beams

    def extend(self, logits: Tensor) -> list[int]:
        """Grow every beam by one token and keep what ended. Returns the beam that each new beam grew from."""
        candidates = self._candidates(logits)
        self._keep_ended(candidates)
        self.all_ended = all(candidate.reason for candidate in candidates)
        going_on = sorted(candidates, key=Candidate.score_to_go_on, reverse=True)[: self.num_beams]
        self.beams = [replace(c.beam, score=c.score_to_go_on()) for c in going_on]
        return [candidate.parent for candidate in going_on]

    def is_over(self) -> bool:
        """Whether no further step can matter."""
        length = len(self.beams[0].ids)
        if self.early_stopping == "never" and self.length_penalty > 0.0:
            hypothetical = self.request.max_new_tokens
        else:
            hypothetical = length
        best_possible = self.beams[0].score / hypothetical**self.length_penalty
        full = len(self.hypotheses) == self.num_beams
        worst = self.hypotheses[-1].score if full else IMPOSSIBLE
        self.can_improve = self.can_improve and best_possible > worst
        stops_early = full and self.early_stopping is True
        return stops_early or self.all_ended or not self.can_improve

    def _candidates(self, logits: Tensor) -> list[Candidate]:
        """The `width` likeliest continuations of all beams together, likeliest first."""
        logprobs = logits.log_softmax(-1)
        if bool(logprobs.isnan().any()):
            raise ModelError(
                f"the model's logits are not numbers (NaN or infinite) at new token {len(self.beams[0].ids) + 1}",
                hint="its weights may be damaged, or --dtype float16 too narrow for it",
            )
        scores = logprobs
        history = [[*self.request.prompt_ids, *beam.ids] for beam in self.beams]
        for apply in self.filters:
            scores = apply(scores, history)
        scores = scores + torch.tensor([beam.score for beam in self.beams], device=logits.device)[:, None]
        vocab = scores.shape[-1]
        best = scores.flatten().topk(min(self.width, scores.numel()))
        own = logprobs.flatten()[best.indices]
        return [
            self._candidate(at // vocab, at % vocab, score, logprob)
            for at, score, logprob in zip(best.indices.tolist(), best.values.tolist(), own.tolist(), strict=True)
        ]

    def _candidate(self, parent: int, token: int, score: float, logprob: float) -> Candidate:
        beam = self.beams[parent]
        ids = (*beam.ids, token)
        return Candidate(Beam(ids, score, beam.logprob + logprob), parent, self._reason(ids))

    def _reason(self, ids: tuple[int, ...]) -> FinishReason | None:
        if ids[-1] in self.request.eos_ids:
            return "eos"
        if self.request.stop and _text(ids, self.request)[1]:
            return "stop"
        return "length" if len(ids) == self.request.max_new_tokens else None

    def _keep_ended(self, candidates: list[Candidate]) -> None:
        """Keep the `num_beams` best hypotheses; only the best `num_beams` candidates may become one."""
        full = len(self.hypotheses) == self.num_beams
        if (full and self.early_stopping is True) or not self.can_improve:
            return
        ended = [
            Hypothesis(c.beam.ids, self._penalised(c.beam), c.beam.logprob, c.reason)
            for c in candidates[: self.num_beams]
            if c.reason
        ]
        merged = sorted(self.hypotheses + ended, key=lambda hypothesis: hypothesis.score, reverse=True)
        self.hypotheses = merged[: self.num_beams]

    def _penalised(self, beam: Beam) -> float:
        score: float = beam.score / len(beam.ids) ** self.length_penalty
        return score


def _completion(index: int, hypothesis: Hypothesis, request: Request) -> Completion:
    text, stopped = _text(hypothesis.ids, request)
    reason = "stop" if stopped else hypothesis.reason
    return Completion(index, text, hypothesis.ids, reason, hypothesis.logprob)


def _text(ids: tuple[int, ...], request: Request) -> tuple[str, bool]:
    """The text of the new tokens, cut before a stop text, and whether one was found."""
    stream = TextStream(request.decode, request.prompt_ids, request.stop)
    pieces = []
    for token in ids:
        if token in request.eos_ids or stream.stopped:
            break
        pieces.append(stream.push(token))
    pieces.append(stream.finish())
    return "".join(pieces), stream.stopped
