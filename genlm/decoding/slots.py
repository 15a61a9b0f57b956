"""The slots of running sequences: the rows of one KV cache, which sequences enter and leave at any step."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor

from genlm.decoding.lookup import LookupCache, Rewindable, can_look_up
from genlm.decoding.request import PrefilledPrompt, Sequence
from genlm.model.graph import Capturable
from genlm.model.memory import MOST_ROWS, rows_that_fit
from genlm.model.network import Cache, Network, SharedCache


class Slots:
    """Up to `capacity` sequences in the first rows of a cache, without gaps."""

    def __init__(self, network: Network, capacity: int | None) -> None:
        self.sequences: list[Sequence] = []
        self.capacity = MOST_ROWS if capacity is None else capacity
        self._network = network
        self._is_auto = capacity is None
        self._longest = 0
        self._cache: SharedCache | None = None
        # The cache to step: `_cache` itself or, for a single sequence, one that speculates.
        self._stepping: Cache | None = None

    def fit(self, length: int) -> None:
        """Lower the capacity to the sequences of `length` tokens that pay off and fit, unless it was given."""
        if self._is_auto and length > self._longest:
            self._longest = length
            self.capacity = min(self.capacity, rows_that_fit(self._network, length))

    def add(self, sequences: list[Sequence], expected: int) -> None:
        """Give slots to prefilled sequences. If there is no cache yet, create one for `expected` sequences."""
        cache = self._cache or self._new_cache(sequences, expected)
        for source, group in groupby(sequences, lambda sequence: _prompt(sequence).cache):
            entering = list(group)
            slots = range(len(self.sequences), len(self.sequences) + len(entering))
            rows = self._tensor(_prompt(sequence).row for sequence in entering)
            cache.insert(self._tensor(slots), source, rows, max(each.request.max_new_tokens for each in entering))
            self.sequences += entering
        self._cache = self._stepping = cache
        self._pad()
        request = sequences[0].request
        if request.alone and isinstance(cache, Capturable):
            cache.never_capture()
        if self.capacity == 1 and can_look_up(request) and isinstance(cache, Rewindable):
            self._stepping = LookupCache(cache, request.prompt_ids)

    def step(self) -> Tensor:
        """Feed every sequence its last token. Return the logits of the next tokens, (sequences, vocab)."""
        assert self._stepping is not None
        tokens = [sequence.ids[-1] for sequence in self.sequences]
        tokens += [0] * (self._min_rows() - len(tokens))
        return self._stepping.step(self._tensor(tokens))[: len(self.sequences)]

    def keep(self, sequences: list[Sequence]) -> None:
        """Free the slots of all other sequences; the last sequences move into the gaps."""
        if not sequences:
            self.clear()
        if len(sequences) == len(self.sequences) or self._cache is None:
            return
        kept, count = set(sequences), len(sequences)
        gaps = [slot for slot, sequence in enumerate(self.sequences[:count]) if sequence not in kept]
        movers = [slot for slot, sequence in enumerate(self.sequences) if slot >= count and sequence in kept]
        if gaps:
            self._cache.insert(self._tensor(gaps), self._cache, self._tensor(movers), 0)
        for gap, mover in zip(gaps, movers, strict=True):
            self.sequences[gap] = self.sequences[mover]
        del self.sequences[count:]
        self._cache.keep_first(count)
        self._pad()

    def clear(self) -> None:
        """Free all slots and the memory of the cache."""
        self.sequences = []
        self._cache = self._stepping = None

    def _new_cache(self, sequences: list[Sequence], expected: int) -> SharedCache:
        rows = max(min(self.capacity, expected), len(sequences), sequences[0].request.least_rows)
        return _prompt(sequences[0]).cache.new_empty(rows, max(each.request.max_length for each in sequences))

    def _pad(self) -> None:
        """Copy the first sequence into as many rows as a step needs at least."""
        missing = range(len(self.sequences), self._min_rows())
        if missing and self._cache is not None:
            self._cache.insert(self._tensor(missing), self._cache, self._tensor([0] * len(missing)), 0)

    def _min_rows(self) -> int:
        return max(len(self.sequences), self.sequences[0].request.least_rows)

    def _tensor(self, numbers: Iterable[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self._network.device)


def _prompt(sequence: Sequence) -> PrefilledPrompt:
    assert sequence.prompt is not None, "only prefilled sequences enter a slot"
    return sequence.prompt
