"""The keys and values that GPT-2 keeps of the tokens so far, and the steps that add to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from genlm.model.gpt2_block import Attend, Block, attend_causally, attend_each
from genlm.model.graph import Graphs, Steps
from genlm.model.network import check_room

if TYPE_CHECKING:
    from genlm.model.gpt2 import GPT2

Made = TypeVar("Made")


class GPT2Cache:
    """Keys and values of every layer for the tokens so far: row r's lie at 0 .. lengths[r] - 1.

    There may be memory for more rows than there are.
    """

    def __init__(self, model: GPT2, keys: Tensor, values: Tensor) -> None:
        self.model = model
        self._graphs = model.graphs
        self._remember(keys, values)
        self.lengths = torch.zeros(keys.shape[1], dtype=torch.long, device=keys.device)
        self.longest = 0
        # Nothing was ever written to places from here on.
        self._reach = 0
        self.ragged = False
        self._mask: Tensor | None = None

    @classmethod
    def empty(cls, model: GPT2, rows: int, capacity: int) -> GPT2Cache:
        """A cache for `rows` sequences of up to `capacity` tokens."""
        config = model.config
        shape = (config.n_layer, rows, config.n_head, capacity, config.n_embd // config.n_head)
        # Zeros, for a masked position still counts as 0 times its value.
        return cls(model, model.positions.new_zeros(shape), model.positions.new_zeros(shape))

    @property
    def room(self) -> int:
        """How many more tokens each row can take."""
        return self.keys.shape[3] - self.longest

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """See Cache."""
        check_room(self.longest + 1, self.keys.shape[3])
        logits = self._steps.run(ids, self.lengths, lambda: self.model.head(self._feed(ids, self.model.hidden)))
        self._lengthen(1)
        return logits

    @torch.inference_mode()
    def step_with_states(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See HiddenStatesCache."""
        check_room(self.longest + 1, self.keys.shape[3])
        last, states = self._feed(ids, lambda ids, at, attend: self.model.states(ids, at, attend, layers))
        self._lengthen(1)
        return self.model.head(last), states

    @torch.inference_mode()
    def extend(self, ids: Tensor) -> Tensor:
        """See Rewindable, for rows of one length. `ids`: (rows, n). Shape: (rows * n, vocab)."""
        new = ids.shape[1]
        check_room(self.longest + new, self.keys.shape[3])
        positions = torch.arange(self.longest, self.longest + new, device=ids.device)
        self._mask = torch.arange(self.longest + new, device=ids.device) <= positions[:, None]
        hidden = self.model.hidden(ids, positions, self._write_even)
        self._lengthen(new)
        return self.model.head(hidden)

    def drop(self, tokens: int) -> None:
        """See Rewindable; what lies beyond the length is written over."""
        self._lengthen(-tokens)

    @torch.inference_mode()
    def select(self, rows: Tensor) -> GPT2Cache:
        """See Cache."""
        taken = GPT2Cache(self.model, self.keys[:, rows], self.values[:, rows])
        taken.lengths, taken.longest, taken.ragged = self.lengths[rows], self.longest, self.ragged
        taken._reach = self._reach
        return taken

    def new_empty(self, rows: int, length: int) -> GPT2Cache:
        """See SharedCache."""
        made = GPT2Cache.empty(self.model, rows, length)
        made.lengths = made.lengths[:0]
        return made

    @torch.inference_mode()
    def insert(self, slots: Tensor, source: GPT2Cache, rows: Tensor, room: int) -> None:
        """See SharedCache."""
        filled = source.longest
        count = max(len(self.lengths), int(slots.max()) + 1)
        self._reserve(count, filled + room)
        for mine, others in ((self.keys, source.keys), (self.values, source.values)):
            mine[:, slots, :, :filled] = others[:, rows, :, :filled]
            # A number that is none would spoil the sequence even where it is masked.
            mine[:, slots, :, filled : self._reach] = 0.0
        self._reach = max(self._reach, filled)
        lengths = self.lengths.new_zeros(count)
        lengths[: len(self.lengths)] = self.lengths
        lengths[slots] = source.lengths[rows]
        self._measure(lengths)

    def keep_first(self, rows: int) -> None:
        """See SharedCache; the memory of the others is kept for those that may come."""
        self._measure(self.lengths[:rows])

    def never_capture(self) -> None:
        """See Capturable."""
        self._graphs = Graphs()
        self._remember(self.keys, self.values)

    def write_prompts(self, query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
        """Keep the prompts' keys and values; attend among them."""
        self._reach = key.shape[2]
        self.keys[block.layer, :, :, : self._reach] = key
        self.values[block.layer, :, :, : self._reach] = value
        return attend_causally(query, key, value, block)

    def _feed(self, ids: Tensor, run: Callable[[Tensor, Tensor, Attend], Made]) -> Made:
        """What `run` makes of one more token a row, whose keys and values are kept."""
        if not self.ragged:
            self._mask = None
            return run(ids[:, None], self.lengths[:1], self._write_even)
        rows, upto = len(self.lengths), self.longest + 1
        attend = attend_each(self.lengths, self.keys[:, :rows, :, :upto], self.values[:, :rows, :, :upto])
        return run(ids[:, None], self.lengths[:, None], attend)

    def _reserve(self, rows: int, capacity: int) -> None:
        """Let there be memory for so many rows of so many tokens."""
        held, held_capacity = self.keys.shape[1], self.keys.shape[3]
        if rows > held or capacity > held_capacity:
            larger = GPT2Cache.empty(self.model, max(rows, held), max(capacity, held_capacity))
            larger.keys[:, :held, :, : self.longest] = self.keys[:, :, :, : self.longest]
            larger.values[:, :held, :, : self.longest] = self.values[:, :, :, : self.longest]
            self._remember(larger.keys, larger.values)

    def _remember(self, keys: Tensor, values: Tensor) -> None:
        """Take this for the memory."""
        self.keys, self.values = keys, values
        self._steps = Steps(self._graphs, self.model.decode, keys, values)

    def _measure(self, lengths: Tensor) -> None:
        """Take these for the lengths of the rows."""
        self.lengths = lengths
        if len(lengths):
            shortest, longest = (int(length) for length in lengths.aminmax())
            self.longest, self.ragged = longest, shortest < longest
            self._reach = max(self._reach, longest)

    def _lengthen(self, tokens: int) -> None:
        self.lengths = self.lengths + tokens
        self.longest += tokens
        self._reach = max(self._reach, self.longest)

    def _write_even(self, query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
        upto = self.longest + key.shape[2]
        keys, values = self._layer(block)
        keys[:, :, self.longest : upto] = key
        values[:, :, self.longest : upto] = value
        return block.attention(query, keys[:, :, :upto], values[:, :, :upto], self._mask, causal=False)

    def _layer(self, block: Block) -> tuple[Tensor, Tensor]:
        """The keys and values of one layer, (rows, heads, capacity, head width)."""
        rows = len(self.lengths)
        return self.keys[block.layer, :rows], self.values[block.layer, :rows]
