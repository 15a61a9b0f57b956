"""What a decoding loop is asked for, and the choice of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from genlm.decoding.completion import Event
from genlm.decoding.strategy import Strategy
from genlm.decoding.text import Decode
from genlm.model.network import Network


@dataclass(frozen=True)
class Request:
    """A prompt to be continued `count` times by a strategy."""

    prompt_ids: tuple[int, ...]
    strategy: Strategy
    max_new_tokens: int
    count: int
    seed: int
    eos_ids: frozenset[int]
    stop: tuple[str, ...]
    decode: Decode


def run(network: Network, request: Request) -> Iterator[Event]:
    """Decode: pieces of text on the way, then each completion, once each, in any order."""
    if request.strategy.kind == "beam":
        from genlm.decoding.beam import beam_search

        return beam_search(network, request)
    from genlm.decoding.sampling import sample

    return sample(network, request)
