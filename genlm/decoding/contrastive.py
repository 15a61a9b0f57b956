"""Contrastive search: a likely token whose hidden state differs from those before (Su et al. 2022, arXiv:2202.06417).

Of the top_k most likely tokens v, the next one maximises

    (1 - penalty_alpha) * p(v) - penalty_alpha * max_j cos(h_v, h_j)

where h is the last hidden state, normalised as for the output head: h_v with v as the last token, h_j that of every
earlier token, including the prompt's. p is the model's probability after the penalties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.completion import Event, Prefilled
from genlm.decoding.distribution import check_logits
from genlm.decoding.kinds import KINDS
from genlm.decoding.kinds.shared import TOP_K
from genlm.decoding.kinds.standard import PENALTY_ALPHA
from genlm.decoding.processors import request_processors
from genlm.decoding.request import Request, generate_one
from genlm.decoding.sampling import check_choice
from genlm.decoding.strategy import Strategy
from genlm.model.memory import check_rows
from genlm.model.network import HiddenStatesCache, Network


def contrastive_search(network: Network, request: Request) -> Iterator[Event]:
    """Yield the one completion that contrastive search finds.

    Raises:
        ModelError: more candidates than fit in memory, no token left to choose, or logits that are not numbers.
    """
    search = _Search(network, request)
    yield Prefilled()
    yield from generate_one(request, search.choose)


class _Search:
    """The state after the last token: its logits, the cache (one row), and the directions of all hidden states."""

    def __init__(self, network: Network, request: Request) -> None:
        self.request = request
        self.alpha = request.strategy[PENALTY_ALPHA]
        self.width = min(request.strategy[TOP_K], network.vocab_size)
        check_rows(network, "top_k", self.width, request.max_length)
        self.processors = request_processors(replace(request, strategy=_penalties(request.strategy)))
        self.layers = [network.layers]
        self.cache: HiddenStatesCache
        self.logits, self.cache, states = network.prefill_with_states(
            request.prompt_ids, request.max_new_tokens, self.layers
        )
        self.seen = _directions(states)

    def choose(self, history: Sequence[int]) -> tuple[int, float]:
        """Return the next token and its log-probability, and move the state past it."""
        logprobs = self.logits.log_softmax(-1)[0]
        probabilities, candidates = self._candidates(history)
        cache = self.cache.select(torch.zeros_like(candidates))
        logits, states = cache.step_with_states(candidates, self.layers)
        directions = _directions(states)
        similarity = (directions @ self.seen.T).amax(-1)
        best = ((1 - self.alpha) * probabilities - self.alpha * similarity).argmax().view(1)
        self.logits, self.cache = logits[best], cache.select(best)
        self.seen = torch.cat([self.seen, directions[best]])
        token = int(candidates[best])
        return token, float(logprobs[token])

    def _candidates(self, history: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the most likely tokens, and the tokens. Shapes: (n,)."""
        step = len(history) - len(self.request.prompt_ids)
        check_logits(self.logits, step)
        scores = self.processors(self.logits, [history])
        check_choice(scores, self.request.strategy, step)
        top = scores.softmax(-1)[0].topk(self.width)
        allowed = scores[0, top.indices] > -torch.inf
        return top.values[allowed], top.indices[allowed]


def _penalties(strategy: Strategy) -> Strategy:
    """Return the strategy without `top_k`, which only counts candidates here."""
    return Strategy.of("greedy", {name: strategy.fields[name] for name in KINDS["greedy"].fields})


def _directions(states: Tensor) -> Tensor:
    """Return the hidden states of one layer, (n, 1, width), scaled to length 1. Shape: (n, width)."""
    return F.normalize(states[:, 0].float(), dim=-1)
