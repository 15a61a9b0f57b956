"""Beam search, token for token as transformers' `generate` does it, in one group of beams or several.

At every step the likeliest continuations of all beams of a group are ranked together. Those that end become
hypotheses, scored by log-probability / length ** length_penalty; the best of the others go on as the next beams.

Diverse beam search (Vijayakumar et al. 2016, arXiv:1610.02424) has several groups. One after the other they take a
step, and a token costs diversity_penalty for each beam of an earlier group that has just taken it: the Hamming
diversity. What it costs stays in the score. The hypotheses of all groups are ranked together at the end.

Beam sampling draws the continuations without replacement, each with the probability that its score has among those
left; the best of those drawn that do not end go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import torch
from torch import Tensor

from genlm.decoding.checks import require_memory, require_numbers
from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled
from genlm.decoding.distribution import log_total
from genlm.decoding.filters import request_filters
from genlm.decoding.randomness import streams
from genlm.decoding.request import Request
from genlm.decoding.sampling import draw
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
    fields = cast(dict[str, Any], request.strategy.fields)
    require_memory(network, request, "num_beams", fields["num_beams"])
    groups = _groups(request)
    logits, cache = network.prefill([request.prompt_ids], request.max_new_tokens)
    yield Prefilled()
    going_on = groups
    while True:
        _extend(going_on, logits, fields.get("diversity_penalty", 0.0))
        going_on = [group for group in going_on if not group.is_over()]
        if not going_on:
            break
        cache = cache.take(torch.tensor(_take_places(going_on), device=logits.device))
        tokens = [beam.ids[-1] for group in going_on for beam in group.beams]
        logits = cache.step(torch.tensor(tokens, device=logits.device))
    for index, hypothesis in enumerate(_best(groups, request)):
        yield from _tell(index, hypothesis)


def _groups(request: Request) -> list[_Group]:
    fields = cast(dict[str, Any], request.strategy.fields)
    count = fields.get("num_beam_groups", 1)
    random = streams(request.seed, request.prompt_ids)(0) if request.strategy.samples else None
    return [_Group(request, fields["num_beams"] // count, random) for _ in range(count)]


def _extend(groups: Sequence[_Group], logits: Tensor, diversity_penalty: float) -> None:
    """A step of every group, each of which shuns the tokens that those before it took in this step."""
    cost = torch.zeros(logits.shape[-1], device=logits.device)
    for group in groups:
        group.extend(logits[group.place : group.place + len(group.beams)], cost)
        if diversity_penalty:
            taken = torch.tensor(group.taken, dtype=torch.long, device=logits.device)
            cost = cost + diversity_penalty * taken.bincount(minlength=len(cost))


def _take_places(groups: Sequence[_Group]) -> list[int]:
    """The row that each beam grew from, group by group; from now on that is where their rows lie."""
    rows: list[int] = []
    for group in groups:
        place, group.place = group.place, len(rows)
        rows += [place + beam.parent for beam in group.beams]
    return rows


def _best(groups: Sequence[_Group], request: Request) -> list[Hypothesis]:
    """As many of the groups' hypotheses as asked for, best first. Raises ModelError where there are fewer."""
    found = sorted((each for group in groups for each in group.hypotheses), key=lambda each: each.score, reverse=True)
    if len(found) < request.count:
        raise ModelError(
            f"{request.strategy.spec} finds {len(found)} different sequences here, not {request.count}",
            hint="ask for fewer, or rule out fewer tokens",
        )
    return found[: request.count]


class _Group:
    """The state between two steps: the beams under way and the best hypotheses so far, each best first.

    `place` is where the rows of its beams begin, and `taken` the tokens that they took in the last step, the whole
    texts among them too.
    """

    def __init__(self, request: Request, num_beams: int, random: Random | None) -> None:
        fields = cast(dict[str, Any], request.strategy.fields)
        self.num_beams = num_beams
        self.random = random
        self.place = 0
        self.taken: list[int] = []
        self.length_penalty: float = fields["length_penalty"]
        self.early_stopping: bool | str = fields["early_stopping"]
        self.request = request
        self.filters = request_filters(request)
        text = TextStream(request.decode, request.prompt_ids, request.stop)
        self.beams = [Beam((), text, score=0.0, logprob=0.0, parent=0, reason=None)]
        self.hypotheses: list[Hypothesis] = []
        # Enough that num_beams are left to go on even where an end token follows all the best ones.
        self.width = max(2, 1 + len(request.eos_ids)) * self.num_beams

    def extend(self, logits: Tensor, cost: Tensor) -> None:
        """Grow every beam by one token, keep the best of those that ended and go on with the best others.

        `cost` is what each token costs in this step. Shape: (vocab,).
        """
        onward: list[Beam] = []
        ended: list[Hypothesis] = []
        for rank, beam in enumerate(self._candidates(logits, cost)):
            if beam.reason in (None, "length"):
                onward.append(beam)
            # The candidates after the first num_beams are there to go on with, not to end.
            if beam.reason and rank < self.num_beams:
                ended.append(self._hypothesis(beam, beam.reason))
            if len(onward) == self.num_beams and self.random is None:
                break
        onward = sorted(onward, key=lambda beam: beam.score, reverse=True)[: self.num_beams]
        self.beams = [beam for beam in onward if beam.reason is None]
        self.taken = [beam.ids[-1] for beam in onward]
        self.hypotheses = sorted(self.hypotheses + ended, key=lambda each: each.score, reverse=True)[: self.num_beams]

    def is_over(self) -> bool:
        """Whether no further step can matter, by transformers' rules."""
        if not self.beams:
            return True
        if len(self.hypotheses) < self.num_beams:
            return False
        return self.early_stopping is True or self._best_possible() <= self.hypotheses[-1].score

    def _best_possible(self) -> float:
        """The score that the best beam under way is taken to end with at best."""
        is_optimistic = self.early_stopping == "never" and self.length_penalty > 0.0
        length = self.request.max_new_tokens if is_optimistic else len(self.beams[0].ids)
        return self._penalised(self.beams[0].score, length)

    def _candidates(self, logits: Tensor, cost: Tensor) -> Iterator[Beam]:
        """`width` continuations of all beams together: the likeliest, likeliest first, or as they are drawn."""
        require_numbers(log_total(logits), len(self.beams[0].ids))
        logprobs = logits.log_softmax(-1)
        scores = self._filtered(logprobs - cost)
        scores = scores + torch.tensor([beam.score for beam in self.beams], device=logits.device)[:, None]
        places = self._pick(scores.flatten())
        picked, own = scores.flatten()[places], logprobs.flatten()[places]
        vocab = scores.shape[-1]
        for at, score, logprob in zip(places.tolist(), picked.tolist(), own.tolist(), strict=True):
            if score > -torch.inf:
                yield self._grown(at // vocab, at % vocab, score, logprob)

    def _pick(self, scores: Tensor) -> Tensor:
        """The places of the candidates among all scores."""
        if self.random is None:
            return scores.topk(min(self.width, len(scores))).indices
        return draw_different(scores, [self.random.random() for _ in range(self.width)])

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


def draw_different(scores: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Places drawn without replacement by the softmax of scores, (n,), a uniform number from [0, 1) for each.

    Fewer than there are numbers, where only scores of -inf are left. Returns places: (k,), as they are drawn.
    """
    left, places = scores.clone(), []
    for uniform in uniforms:
        if not bool(left.amax() > -torch.inf):
            break
        places.append(draw(left[None], [uniform]))
        left[places[-1]] = -torch.inf
    return torch.cat(places) if places else torch.empty(0, dtype=torch.long, device=scores.device)


def _tell(index: int, hypothesis: Hypothesis) -> Iterator[Piece | Completion]:
    beam = hypothesis.beam
    if beam.text.text:
        yield Piece(index, beam.text.text)
    yield Completion(index, beam.text.text, beam.ids, hypothesis.reason, beam.logprob)
