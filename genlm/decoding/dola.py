"""DoLa: what the last layer knows beyond an earlier one (Chuang et al. 2023, arXiv:2309.03883).

The output head reads an earlier layer as if it were the last. Of some candidate layers, that counts whose distribution
is farthest from the last layer's. The next token has the largest log(p / q), p being the last layer's probability and
q the earlier one's, among the tokens with p of at least a tenth of the largest; the penalties then apply.

All as in transformers, and so in the paper's own code, down to three points. The candidates are every second layer of
the lower or upper half. An earlier layer is read without the norm that the last one goes through. The distance is
(KL(m || p) + KL(m || q)) / 2 with m = (p + q) / 2, where Jensen and Shannon have p and q on the left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genlm.decoding.checks import require_choice, require_numbers
from genlm.decoding.completion import Event, Prefilled
from genlm.decoding.filters import request_filters
from genlm.decoding.request import Request
from genlm.decoding.single import follow
from genlm.model.network import Network, WatchedCache

# A token less likely than this part of the likeliest one's probability is out.
RELATIVE_TOP = 0.1
# Of a deeper model no more than this many of its first or last layers are candidates.
DEEP, REACH = 40, 20


def dola(network: Network, request: Request) -> Iterator[Event]:
    """The one completion that DoLa gives.

    Raises:
        ModelError: no token left to choose, or logits that are not numbers.
    """
    contrast = _Contrast(network, request)
    yield Prefilled()
    yield from follow(request, contrast.choose)


class _Contrast:
    """The logits of the last and of the candidate layers after the sequence so far."""

    def __init__(self, network: Network, request: Request) -> None:
        self.network, self.request = network, request
        self.layers = candidate_layers(str(request.strategy.fields["dola_layers"]), network.layers, tied=network.tied)
        self.filters = request_filters(request)
        self.cache: WatchedCache
        self.final, self.cache, states = network.watch(request.prompt_ids, request.max_new_tokens, self.layers)
        self.early = network.read_out(states[-1])
        self.length = len(request.prompt_ids)

    def choose(self, history: Sequence[int]) -> tuple[int, float]:
        """The next token and its log-probability."""
        if len(history) > self.length:
            self._feed(history)
        step = len(history) - len(self.request.prompt_ids)
        require_numbers(self.final.logsumexp(-1), step)
        require_numbers(self.early.logsumexp(-1), step)
        scores = contrasted(self.final, self.early)
        for apply in self.filters:
            scores = apply(scores, [history])
        require_choice(scores, self.request.strategy, step)
        token = int(scores.argmax())
        return token, float(self.final.log_softmax(-1)[0, token])

    def _feed(self, history: Sequence[int]) -> None:
        last = torch.tensor(history[-1:], device=self.network.device)
        self.final, states = self.cache.watch(last, self.layers)
        self.early, self.length = self.network.read_out(states[0]), len(history)


def candidate_layers(part: str, layers: int, *, tied: bool) -> list[int]:
    """The layers to contrast with: every second one of the `low` or `high` half, counted as a Network does.

    Where the embeddings are the output head, layer 0 would only say the token again, and is left out but for models
    of one layer.
    """
    if part == "high":
        return list(range(layers // 2 if layers <= DEEP else layers - REACH, layers, 2))
    first = min(2, layers - 1) if tied else 0
    return list(range(first, layers // 2 if layers <= DEEP else REACH, 2)) or [first]


def contrasted(final: Tensor, early: Tensor) -> Tensor:
    """log(p / q), -inf for what is out. `final`: logits (1, vocab); `early`: those of each candidate layer."""
    log_p, log_q = final.log_softmax(-1), early.log_softmax(-1)
    farthest = int(_distance(log_p, log_q).argmax())
    is_out = log_p < log_p.amax(-1, keepdim=True) + math.log(RELATIVE_TOP)
    return (log_p - log_q[farthest]).masked_fill(is_out, -torch.inf)


def _distance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """How far each row of `log_q` is from `log_p`, in nats. Shape: (layers,)."""
    middle = (log_p.exp() + log_q.exp()) / 2
    # A token that neither gives any probability adds nothing.
    log_middle = middle.clamp(min=torch.finfo(middle.dtype).tiny).log()
    return (middle * (2 * log_middle - log_p - log_q)).nan_to_num().sum(-1) / 2
