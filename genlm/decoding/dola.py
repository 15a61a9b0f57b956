"""DoLa: contrasts the last layer with an earlier one (Chuang et al. 2023, arXiv:2309.03883).

The output head is applied to some earlier layers as if each were the last. Of these candidates, the one whose
distribution is farthest from the last layer's is contrasted with it: the next token maximises log(p / q), where p is
the last layer's probability and q the earlier one's, among the tokens with p at least a tenth of the largest. The
penalties then apply.

Details follow transformers, and so the paper's own code, which differ from the paper in three points. The candidates
are every second layer of the lower or upper half. An earlier layer skips the norm before the output head. The distance
is (KL(m || p) + KL(m || q)) / 2 with m = (p + q) / 2, where Jensen and Shannon have p and q on the left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genlm.decoding.completion import Event, Prefilled
from genlm.decoding.distribution import check_logits
from genlm.decoding.kinds.standard import DOLA_LAYERS
from genlm.decoding.processors import request_processors
from genlm.decoding.request import Request, generate_one
from genlm.decoding.sampling import check_choice
from genlm.model.network import HiddenStatesCache, Network

# Rule out tokens with less than this fraction of the largest probability.
RELATIVE_TOP = 0.1
# In a model with more than DEEP layers, only the first or last REACH are candidates.
DEEP, REACH = 40, 20


def dola(network: Network, request: Request) -> Iterator[Event]:
    """Yield the one completion that DoLa gives.

    Raises:
        ModelError: no token left to choose, or logits that are not numbers.
    """
    contrast = _Contrast(network, request)
    yield Prefilled()
    yield from generate_one(request, contrast.choose)


class _Contrast:
    """The state after the last token: the logits of the last layer and of the candidate layers."""

    def __init__(self, network: Network, request: Request) -> None:
        self.network, self.request = network, request
        self.layers = candidate_layers(request.strategy[DOLA_LAYERS], network.layers, tied=network.tied)
        self.processors = request_processors(request)
        self.cache: HiddenStatesCache
        self.final, self.cache, states = network.prefill_with_states(
            request.prompt_ids, request.max_new_tokens, self.layers
        )
        self.early = network.logits_from_states(states[-1])
        self.length = len(request.prompt_ids)

    def choose(self, history: Sequence[int]) -> tuple[int, float]:
        """Return the next token and its log-probability."""
        if len(history) > self.length:
            last = torch.tensor(history[-1:], device=self.network.device)
            self.final, states = self.cache.step_with_states(last, self.layers)
            self.early, self.length = self.network.logits_from_states(states[0]), len(history)
        step = len(history) - len(self.request.prompt_ids)
        check_logits(self.final, step)
        check_logits(self.early, step)
        scores = self.processors.apply(contrasted(self.final, self.early), [history])
        check_choice(scores, self.request.strategy, step)
        token = int(scores.argmax())
        return token, float(self.final.log_softmax(-1)[0, token])


def candidate_layers(part: str, layers: int, *, tied: bool) -> list[int]:
    """Return the layers to contrast with: every second one of the `low` or `high` half, numbered as in Network.

    With tied embeddings, layer 0 only predicts the same token again, so it is left out unless the model has one layer.
    """
    if part == "high":
        return list(range(layers // 2 if layers <= DEEP else layers - REACH, layers, 2))
    first = min(2, layers - 1) if tied else 0
    return list(range(first, layers // 2 if layers <= DEEP else REACH, 2)) or [first]


def contrasted(final: Tensor, early: Tensor) -> Tensor:
    """Return log(p / q), -inf for tokens that are ruled out. `final`: logits, (1, vocab); `early`: (layers, vocab)."""
    log_p, log_q = final.log_softmax(-1), early.log_softmax(-1)
    farthest = int(_distance(log_p, log_q).argmax())
    too_unlikely = log_p < log_p.amax(-1, keepdim=True) + math.log(RELATIVE_TOP)
    return (log_p - log_q[farthest]).masked_fill(too_unlikely, -torch.inf)


def _distance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the distance of each row of `log_q` from `log_p`, in nats. Shape: (layers,)."""
    middle = (log_p.exp() + log_q.exp()) / 2
    # A token without probability in both adds nothing.
    log_middle = middle.clamp(min=torch.finfo(middle.dtype).tiny).log()
    return (middle * (2 * log_middle - log_p - log_q)).nan_to_num().sum(-1) / 2
