"""One prefill of a prompt for all that is decoded from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from genlm.decoding.strategy import Strategy
from genlm.model.network import Network, SharedCache, WatchedCache

if TYPE_CHECKING:
    from torch import Tensor

# Their loops look at hidden states, which a plain prefill does not keep.
WATCHING = ("contrastive", "dola")


def sharing_prefill(network: Network, room: int) -> Network:
    """The network, with the last prompt that was encoded alone kept for the next time it is asked for.

    It is encoded with room for `room` more tokens, which serves all that need no more. A prefill that keeps the hidden
    states serves one that needs none, but not the other way round: strategies in the order of `watching_first` need
    one prefill between them.
    """
    return cast(Network, _Sharing(network, room))


def watching_first(strategy: Strategy) -> bool:
    """A key to sort by: the strategies whose loops look at hidden states come first."""
    return strategy.kind not in WATCHING


@dataclass(frozen=True)
class _Prefill:
    """A prompt that is encoded: `states` (tokens, layers + 1, width) where they were kept."""

    prompt: tuple[int, ...]
    room: int
    logits: Tensor
    cache: Any
    states: Tensor | None


class _Sharing:
    """See sharing_prefill. What is not here is the network's own."""

    def __init__(self, network: Network, room: int) -> None:
        self._network = network
        self._room = room
        self._kept: _Prefill | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, SharedCache]:
        """See Network."""
        if len(prompts) != 1:
            return self._network.prefill(prompts, room)
        kept = self._recall(prompts[0], room)
        if kept is None:
            room = max(room, self._room)
            logits, cache = self._network.prefill(prompts, room)
            kept = self._kept = _Prefill(tuple(prompts[0]), room, logits, cache, None)
        return kept.logits, _copied(kept)

    def watch(self, prompt: Sequence[int], room: int, layers: Sequence[int]) -> tuple[Tensor, WatchedCache, Tensor]:
        """See Network."""
        kept = self._recall(prompt, room)
        if kept is None or kept.states is None:
            room = max(room, self._room)
            logits, cache, states = self._network.watch(prompt, room, range(self._network.layers + 1))
            kept = self._kept = _Prefill(tuple(prompt), room, logits, cache, states)
        assert kept.states is not None
        return kept.logits, _copied(kept), kept.states[:, list(layers)]

    def _recall(self, prompt: Sequence[int], room: int) -> _Prefill | None:
        kept = self._kept
        return kept if kept is not None and kept.prompt == tuple(prompt) and kept.room >= room else None


def _copied(kept: _Prefill) -> Any:
    """A copy of the cache: some loops go on in the one that they are given."""
    return kept.cache.take(torch.zeros(1, dtype=torch.long, device=kept.logits.device))
