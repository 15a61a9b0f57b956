"""The seam between decoding loops and models: what a loop needs of a model, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Self


class Cache(Protocol):
    """Sequences under way, one a row, with the keys and values of their tokens so far."""

    def step(self, ids: Tensor) -> Tensor:
        """Add one token to each row. `ids`: (rows,). Returns the next token's logits, (rows, vocab), float32.

        Raises ValueError where there is no room left.
        """
        ...

    def select(self, rows: Tensor) -> Cache:
        """A new cache with these rows, each as often as it is named. `rows`: (n,)."""
        ...


class SharedCache(Cache, Protocol):
    """A cache whose rows sequences come to and leave one by one, each of a length of its own."""

    def select(self, rows: Tensor) -> Self:
        """See Cache."""
        ...

    def new_empty(self, rows: int, length: int) -> Self:
        """A cache of the same kind without any rows yet, for about so many, of up to `length` tokens."""
        ...

    def insert(self, slots: Tensor, source: Self, rows: Tensor, room: int) -> None:
        """Let copies of `source`'s rows, with room for `room` more tokens, take these slots, old or new; (n,) both.

        What was there is forgotten. A new slot is the next after the last. `source` may be the cache itself.
        """
        ...

    def keep_first(self, rows: int) -> None:
        """Forget all rows but the first so many."""
        ...


class HiddenStatesCache(Protocol):
    """A cache that shows the hidden states of what it is fed."""

    def step_with_states(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `Cache.step`, with the new tokens' hidden states after these layers: (rows, len(layers), width)."""
        ...

    def select(self, rows: Tensor) -> HiddenStatesCache:
        """See Cache."""
        ...


class QueryKey(NamedTuple):
    """What a layer's attention is made of, for one sequence, as the model's usual kernel was given it.

    `query`: (heads, tokens, head width); `key`: the same, or with fewer heads that the query's share in turn.
    `mask` is added to the scores, (tokens, tokens); None hides what comes later and nothing else.
    """

    query: Tensor
    key: Tensor
    scale: float
    mask: Tensor | None


class Network(Protocol):
    """A causal language model ready to run.

    Its hidden states are counted as transformers does: 0 is the embeddings, n the stream after block n, and that
    after the last of the `layers` blocks is normalised. `tied` tells whether the embeddings are the output head too.
    """

    vocab_size: int
    context: int | None
    layers: int
    tied: bool

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def graph_note(self) -> str | None:
        """What became of capturing its decode steps as CUDA graphs; None where none was captured. See `graph`."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, SharedCache]:
        """Encode prompts of any lengths, one a row, with room for `room` more tokens each.

        Returns the next token's logits, (rows, vocab), float32, and the cache. Raises ValueError beyond the context.
        """
        ...

    def prefill_with_states(
        self, prompt: Sequence[int], room: int, layers: Sequence[int]
    ) -> tuple[Tensor, HiddenStatesCache, Tensor]:
        """As `prefill` of one prompt, with its tokens' hidden states: (len(prompt), len(layers), width)."""
        ...

    def logits_from_states(self, states: Tensor) -> Tensor:
        """What the output head makes of hidden states, (n, width). Shape: (n, vocab), float32."""
        ...

    def logits(self, ids: Sequence[int]) -> Tensor:
        """The logits after every token of one sequence. Shape: (len(ids), vocab), float32."""
        ...

    def logits_of(self, rows: Sequence[Sequence[int]], skips: Sequence[int]) -> Tensor:
        """The logits after every token but the first `skips[r]` of each sequence r, one sequence after the other.

        Shape: (n, vocab), float32.
        """
        ...

    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """The attention weights of every layer for one sequence. Shape of each: (heads, tokens, tokens), float32.

        Raises:
            ModelError: a model that has no such weights.
        """
        ...

    def queries_and_keys(self, ids: Sequence[int]) -> list[QueryKey]:
        """What the attention of every layer is made of for one sequence.

        Raises:
            ModelError: a model that does not let them be read.
        """
        ...

    def row_bytes(self, length: int) -> int:
        """The memory that one row of `length` tokens takes while it is decoded, in bytes."""
        ...

    def step_bytes(self, rows: int, length: int) -> int:
        """What a decode step of `rows` sequences of `length` tokens reads at least, in bytes: weights and cache."""
        ...


def check_room(length: int, most: int | None) -> None:
    """Raise ValueError where `length` tokens are more than there is room for; what lies beyond would be noise."""
    if most is not None and length > most:
        raise ValueError(f"{length} tokens are more than there is room for: {most}")
