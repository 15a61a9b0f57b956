"""A network that counts what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Counting:
    """A network that counts what is asked of it."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.prefills: list[Sequence[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> Any:
        self.prefills += prompts
        return self.network.prefill(prompts, room)

    def prefill_with_states(self, prompt: Sequence[int], room: int, layers: Sequence[int]) -> Any:
        self.prefills.append(prompt)
        return self.network.prefill_with_states(prompt, room, layers)
