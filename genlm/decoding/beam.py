"""Beam search, token for token as in transformers' `generate`, with one group of beams or several.

At every step, the most likely continuations of all beams of a group are ranked together. Those that end become
hypotheses, scored by log-probability / length ** length_penalty; the best of the others become the next beams.

Diverse beam search (Vijayakumar et al. 2016, arXiv:1610.02424) has several groups, which take each step one after the
other. A token costs diversity_penalty for every beam of an earlier group that chose it in the same step (the Hamming
diversity). The cost stays in the score. At the end, the hypotheses of all groups are ranked together.

Beam sampling draws the continuations without replacement, each with the probability that its score has among those
left; the best that do not end become the next beams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled, TextStream
from genlm.decoding.distribution import check_logits
from genlm.decoding.kinds.standard import DIVERSITY_PENALTY, EARLY_STOPPING, LENGTH_PENALTY, NUM_BEAM_GROUPS, NUM_BEAMS
from genlm.decoding.processors import request_processors
from genlm.decoding.request import Request
from genlm.decoding.sampling import draw
from genlm.errors import ModelError
from genlm.model.memory import check_rows
from genlm.model.network import Network


@dataclass(frozen=True)
class Beam:
    """A sequence: its new tokens and their text, the strategy's score (nats) and the model's own log-probability.

    `parent` is the index of the beam that it continues. `reason` is None until it ends.
    """

    ids: tuple[int, ...]
    text: TextStream
    score: float
    logprob: float
    parent: int
    reason: FinishReason | None


def beam_search(network: Network, request: Request) -> Iterator[Event]:
    """Yield the `request.count` best hypotheses, best first.

    Raises:
        ModelError: more beams than fit in memory, or fewer sequences found than requested.
    """
    strategy = request.strategy
    check_rows(network, "num_beams", strategy[NUM_BEAMS], request.max_length)
    count = strategy.get(NUM_BEAM_GROUPS) or 1
    random = request.random_stream(0) if strategy.samples else None
    groups = [_Group(request, strategy[NUM_BEAMS] // count, random) for _ in range(count)]
    logits, cache = network.prefill([request.prompt_ids], request.max_new_tokens)
    yield Prefilled()
    running = groups
    while True:
        _extend(running, logits, strategy.get(DIVERSITY_PENALTY) or 0.0)
        running = [group for group in running if not group.is_done()]
        if not running:
            break
        cache = cache.select(torch.tensor(_move_rows(running), device=logits.device))
        tokens = [beam.ids[-1] for group in running for beam in group.beams]
        logits = cache.step(torch.tensor(tokens, device=logits.device))
    for index, beam in enumerate(_best(groups, request)):
        assert beam.reason is not None
        if beam.text.text:
            yield Piece(index, beam.text.text)
        yield Completion(index, beam.text.text, beam.ids, beam.reason, beam.logprob)


def _extend(groups: Sequence[_Group], logits: Tensor, diversity_penalty: float) -> None:
    """Take a step with every group, each penalised for the tokens that earlier groups chose in this step."""
    cost = torch.zeros(logits.shape[-1], device=logits.device)
    for group in groups:
        group.extend(logits[group.first_row : group.first_row + len(group.beams)], cost)
        if diversity_penalty:
            chosen = torch.tensor(group.chosen, dtype=torch.long, device=logits.device)
            cost = cost + diversity_penalty * chosen.bincount(minlength=len(cost))


def _move_rows(groups: Sequence[_Group]) -> list[int]:
    """Assign the next rows to the beams, group by group. Return the row that each beam continues."""
    rows: list[int] = []
    for group in groups:
        before, group.first_row = group.first_row, len(rows)
        rows += [before + beam.parent for beam in group.beams]
    return rows


def _best(groups: Sequence[_Group], request: Request) -> list[Beam]:
    """Return the best hypotheses of all groups, best first. Raise ModelError if there are fewer than requested."""
    found = sorted((each for group in groups for each in group.hypotheses), key=lambda each: each.score, reverse=True)
    if len(found) < request.count:
        raise ModelError(
            f"{request.strategy.spec} finds {len(found)} different sequences here, not {request.count}",
            hint="request fewer sequences, or rule out fewer tokens",
        )
    return found[: request.count]


class _Group:
    """The state between two steps: the running beams and the best hypotheses so far, both best first.

    A hypothesis is a beam that has ended, with the score after the length penalty. The group's beams are in the rows
    from `first_row` on. `chosen` are the tokens of the last step, also of beams that reached the maximum length in it.
    """

    def __init__(self, request: Request, num_beams: int, random: Random | None) -> None:
        self.num_beams = num_beams
        self.random = random
        self.first_row = 0
        self.chosen: list[int] = []
        self.length_penalty = request.strategy[LENGTH_PENALTY]
        self.early_stopping = request.strategy[EARLY_STOPPING]
        self.request = request
        self.processors = request_processors(request)
        text = TextStream(request.decode, request.prompt_ids, request.stop)
        self.beams = [Beam((), text, score=0.0, logprob=0.0, parent=0, reason=None)]
        self.hypotheses: list[Beam] = []
        # Enough for num_beams to be left even if all the best candidates end.
        self.width = max(2, 1 + len(request.eos_ids)) * self.num_beams

    def extend(self, logits: Tensor, cost: Tensor) -> None:
        """Add a token to every beam. Keep the best that ended as hypotheses, and the best others as beams.

        `cost` is the penalty of each token in this step, (vocab,).
        """
        running: list[Beam] = []
        ended: list[Beam] = []
        for rank, beam in enumerate(self._candidates(logits, cost)):
            if beam.reason in (None, "length"):
                running.append(beam)
            # Candidates after the first num_beams can only continue.
            if beam.reason and rank < self.num_beams:
                ended.append(replace(beam, score=self._penalised(beam.score, len(beam.ids))))
            if len(running) == self.num_beams and self.random is None:
                break
        running = sorted(running, key=lambda beam: beam.score, reverse=True)[: self.num_beams]
        self.beams = [beam for beam in running if beam.reason is None]
        self.chosen = [beam.ids[-1] for beam in running]
        self.hypotheses = sorted(self.hypotheses + ended, key=lambda each: each.score, reverse=True)[: self.num_beams]

    def is_done(self) -> bool:
        """Return whether no further step can improve the result, by transformers' rules."""
        if not self.beams:
            return True
        if len(self.hypotheses) < self.num_beams:
            return False
        return self.early_stopping is True or self._best_possible() <= self.hypotheses[-1].score

    def _best_possible(self) -> float:
        """Return the best score that the best running beam can end with, by transformers' estimate."""
        is_optimistic = self.early_stopping == "never" and self.length_penalty > 0.0
        length = self.request.max_new_tokens if is_optimistic else len(self.beams[0].ids)
        return self._penalised(self.beams[0].score, length)

    def _candidates(self, logits: Tensor, cost: Tensor) -> Iterator[Beam]:
        """Yield `width` continuations of all beams: the most likely, best first, or as they are drawn."""
        check_logits(logits, len(self.beams[0].ids))
        logprobs = self.processors.start(logits)
        history = [[*self.request.prompt_ids, *beam.ids] for beam in self.beams] if self.processors.processors else []
        scores = self.processors.apply(logprobs - cost, history)
        scores = scores + torch.tensor([beam.score for beam in self.beams], device=logits.device)[:, None]
        flat, vocab = scores.flatten(), scores.shape[-1]
        if self.random is None:
            indices = flat.topk(min(self.width, len(flat))).indices
        else:
            indices = draw_different(flat, [self.random.random() for _ in range(self.width)])
        picked, own = flat[indices], logprobs.flatten()[indices]
        for index, score, logprob in zip(indices.tolist(), picked.tolist(), own.tolist(), strict=True):
            if score > -torch.inf:
                yield self._continued(index // vocab, index % vocab, score, logprob)

    def _continued(self, parent: int, token: int, score: float, logprob: float) -> Beam:
        beam = self.beams[parent]
        ids, text = (*beam.ids, token), beam.text.fork()
        reason: FinishReason | None = "length" if len(ids) == self.request.max_new_tokens else None
        if token in self.request.eos_ids:
            reason = "eos"
        else:
            text.push(token)
        if reason:
            text.finish()
        return Beam(ids, text, score, beam.logprob + logprob, parent, "stop" if text.stopped else reason)

    def _penalised(self, score: float, length: int) -> float:
        return score / float(length**self.length_penalty)


def draw_different(scores: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Draw indices of `scores`, (n,), without replacement, with the probabilities of their softmax.

    There is one draw for each number in `uniforms`, from [0, 1), until only scores of -inf are left. Return indices in
    the order in which they are drawn, (k,).
    """
    left, indices = scores.clone(), []
    for uniform in uniforms:
        if not bool(left.amax() > -torch.inf):
            break
        indices.append(draw(left[None], [uniform]))
        left[indices[-1]] = -torch.inf
    return torch.cat(indices) if indices else torch.empty(0, dtype=torch.long, device=scores.device)
