"""Networks that record their calls or fail on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genlm.model.gpt2 import GPT2Cache
from genlm.model.load import Model


class Recording:
    """A network that records the prompts of every prefill and the number of rows of every decode step."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.prefills: list[list[Sequence[int]]] = []
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, Any]:
        self.prefills.append(list(prompts))
        logits, cache = self.network.prefill(prompts, room)
        return logits, RecordingCache(self, cache)

    def prefill_with_states(self, prompt: Sequence[int], room: int, layers: Sequence[int]) -> Any:
        self.prefills.append([prompt])
        return self.network.prefill_with_states(prompt, room, layers)

    def step(self, cache: Any, ids: Tensor) -> Tensor:
        self.rows.append(len(ids))
        logits: Tensor = cache.step(ids)
        return logits


class RecordingCache:
    """A cache that takes its steps through the network."""

    def __init__(self, network: Recording, cache: Any) -> None:
        self.network = network
        self.cache = cache

    def step(self, ids: Tensor) -> Tensor:
        return self.network.step(self.cache, ids)

    def select(self, rows: Tensor) -> RecordingCache:
        return RecordingCache(self.network, self.cache.select(rows))

    def new_empty(self, rows: int, length: int) -> RecordingCache:
        return RecordingCache(self.network, self.cache.new_empty(rows, length))

    def insert(self, slots: Tensor, source: RecordingCache, rows: Tensor, room: int) -> None:
        self.cache.insert(slots, source.cache, rows, room)

    def keep_first(self, rows: int) -> None:
        self.cache.keep_first(rows)


class Poisoned(Recording):
    """A network that fails when it meets a certain token in a prompt or as the input of a step.

    It raises `error` or, without one, returns NaN.
    """

    def __init__(self, network: Any, token: int, error: Exception | None, *, at: str) -> None:
        super().__init__(network)
        self.token, self.error, self.at = token, error, at

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, Any]:
        hit = [self.at == "prompt" and self.token in prompt for prompt in prompts]
        self._raise_if(any(hit))
        logits, cache = super().prefill(prompts, room)
        return self._spoiled(logits, torch.tensor(hit)), cache

    def prefill_with_states(self, prompt: Sequence[int], room: int, layers: Sequence[int]) -> Any:
        self._raise_if(self.at == "prompt" and self.token in prompt)
        return super().prefill_with_states(prompt, room, layers)

    def step(self, cache: Any, ids: Tensor) -> Tensor:
        hit = (ids == self.token) & (self.at == "step")
        self._raise_if(bool(hit.any()))
        return self._spoiled(super().step(cache, ids), hit)

    def _raise_if(self, is_hit: bool) -> None:
        if is_hit and self.error is not None:
            raise self.error

    def _spoiled(self, logits: Tensor, hit: Tensor) -> Tensor:
        return torch.where(hit[:, None], torch.nan, logits)


class Cramped(Recording):
    """A network whose memory holds `most_rows` sequences in a decode step, and `most_tokens` of prompts in a prefill.

    `refused` counts the calls that needed more.
    """

    def __init__(self, network: Any, most_rows: int, most_tokens: int = 10**9) -> None:
        super().__init__(network)
        self.most_rows, self.most_tokens, self.refused = most_rows, most_tokens, 0

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, Any]:
        self._require(len(prompts) * max(map(len, prompts)) <= self.most_tokens)
        return super().prefill(prompts, room)

    def step(self, cache: Any, ids: Tensor) -> Tensor:
        self._require(len(ids) <= self.most_rows)
        return super().step(cache, ids)

    def _require(self, fits: bool) -> None:
        if not fits:
            self.refused += 1
            raise out_of_memory()


def out_of_memory() -> RuntimeError:
    """Return what torch raises on a CPU."""
    return RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")


def with_network(model: Model, network: Any) -> Model:
    """Return the model with another network."""
    return replace(model, network=network)


def count_rows(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda _: None) -> list[int]:
    """Return a list that gets the number of rows of every decode step of any GPT-2 from now on.

    For models that the code under test loads by itself. `before` is called with the number before the step.
    """
    rows: list[int] = []
    step = GPT2Cache.step

    def counted(cache: GPT2Cache, ids: Tensor) -> Tensor:
        before(len(ids))
        rows.append(len(ids))
        return step(cache, ids)

    monkeypatch.setattr(GPT2Cache, "step", counted)
    return rows
