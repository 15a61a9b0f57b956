"""The interface between decoding loops and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self


class Cache(Protocol):
    """The keys and values of running sequences, one sequence a row."""

    def step(self, ids: Tensor) -> Tensor:
        """Add one token to each row and return the next token's logits, (rows, vocab), float32. `ids`: (rows,).

        Raises:
            ValueError: the cache is full.
        """
        ...

    def select(self, rows: Tensor) -> Cache:
        """Return a new cache with a copy of each of these rows. `rows`: (n,); a row may be repeated."""
        ...


class SharedCache(Cache, Protocol):
    """A cache whose rows are slots: sequences of any length come and go one by one."""

    def select(self, rows: Tensor) -> Self:
        """See Cache."""
        ...

    def new_empty(self, rows: int, length: int) -> Self:
        """Return a cache of the same kind without rows, with memory for about `rows` sequences of `length` tokens."""
        ...

    def insert(self, slots: Tensor, source: Self, rows: Tensor, room: int) -> None:
        """Copy rows of `source` into slots, and make room for `room` more tokens in each. `slots`, `rows`: (n,).

        An occupied slot is overwritten; new slots follow the last one. `source` may be this cache.
        """
        ...

    def keep_first(self, rows: int) -> None:
        """Drop all rows but the first `rows`."""
        ...


class HiddenStatesCache(Protocol):
    """A cache that also returns hidden states."""

    def step_with_states(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Do a step and also return the new tokens' hidden states at these layers: (rows, len(layers), width)."""
        ...

    def select(self, rows: Tensor) -> HiddenStatesCache:
        """See Cache."""
        ...


class QueryKey(NamedTuple):
    """The inputs of one layer's attention, for one sequence.

    `query`: (heads, tokens, head width). `key`: the same, or with fewer heads, each shared by several query heads.
    `mask` is added to the scores, (tokens, tokens); None is the causal mask.
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None


class Network(Protocol):
    """A causal language model.

    Hidden states are numbered as in transformers: 0 is the embeddings, n the output of block n; the output of the last
    of the `layers` blocks is normalized. `tied` says whether the embeddings are also the output head. `context` is the
    most tokens a sequence may have, or None.
    """

    vocab_size: int
    context: int | None
    layers: int
    tied: bool

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        ...

    @property
    def graph_note(self) -> str | None:
        """Whether decode steps run as CUDA graphs, or why not; None if none was captured. See `graph`."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, SharedCache]:
        """Encode prompts of any lengths, with room for `room` more tokens each.

        Returns:
            The next token's logits, (prompts, vocab), float32, and the cache.

        Raises:
            ValueError: longer than the context.
        """
        ...

    def prefill_with_states(
        self, prompt: Sequence[int], room: int, layers: Sequence[int]
    ) -> tuple[Tensor, HiddenStatesCache, Tensor]:
        """Encode one prompt and also return its tokens' hidden states at these layers: (tokens, len(layers), width)."""
        ...

    def logits_from_states(self, states: Tensor) -> Tensor:
        """Apply the output head to hidden states, (n, width). Shape: (n, vocab), float32."""
        ...

    def logits_of(self, rows: Sequence[Sequence[int]], skips: Sequence[int]) -> Tensor:
        """Return the logits after every token of each sequence r but its first `skips[r]`, concatenated.

        Shape: (n, vocab), float32.
        """
        ...

    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """Return every layer's attention weights for one sequence. Shape of each: (heads, tokens, tokens), float32.

        Raises:
            ModelError: the model has no attention weights.
        """
        ...

    def queries_and_keys(self, ids: Sequence[int]) -> list[QueryKey]:
        """Return the inputs of every layer's attention, for one sequence.

        Raises:
            ModelError: the model does not give access to it.
        """
        ...

    def row_bytes(self, length: int) -> int:
        """Return the memory in bytes that decoding one row of `length` tokens needs."""
        ...

    def step_bytes(self, rows: int, length: int) -> int:
        """Return the bytes that a decode step of `rows` sequences of `length` tokens reads: weights and cache."""
        ...


def check_room(length: int, most: int | None) -> None:
    """Raise ValueError if `length` tokens are more than `most`: a model's results beyond its context are noise."""
    if most is not None and length > most:
        raise ValueError(f"{length} tokens do not fit: there is room for {most}")
