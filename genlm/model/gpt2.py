"""GPT-2's forward pass, lean: torch only, the keys and values of all tokens kept in one preallocated cache.

Radford et al. 2019, with every variation that transformers' GPT2Config describes. It gives the same logits as
transformers' GPT2LMHeadModel up to float rounding.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.model.gpt2_config import ACTIVATIONS, HEAD, Config
from genlm.model.graph import Capture, Graphs, Steps
from genlm.model.linear import FLOAT, Embedding, Linear, Norm, Precision
from genlm.model.network import QueryKey, check_room

Made = TypeVar("Made")


class Block:
    """Attention and feed-forward network, each on a normalised copy of the stream that it adds to."""

    def __init__(self, weights: MutableMapping[str, Tensor], config: Config, layer: int, precision: Precision) -> None:
        self.layer = layer

        def linear(name: str) -> Linear:
            place = f"h.{layer}.{name}"
            return precision.linear(weights.pop(f"{place}.weight"), weights.pop(f"{place}.bias"))

        def norm(name: str) -> Norm:
            place = f"h.{layer}.{name}"
            return precision.norm(
                weights.pop(f"{place}.weight"), weights.pop(f"{place}.bias"), config.layer_norm_epsilon
            )

        self.norm_1, self.norm_2 = norm("ln_1"), norm("ln_2")
        self.qkv, self.project = linear("attn.c_attn"), linear("attn.c_proj")
        self.expand, self.contract = linear("mlp.c_fc"), linear("mlp.c_proj")
        self.activation = ACTIVATIONS[config.activation_function]
        self.heads = config.n_head
        self.upcast = config.reorder_and_upcast_attn
        self.scale = 1.0 / math.sqrt(config.n_embd // config.n_head) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def __call__(self, x: Tensor, rows: int, attend: Attend) -> Tensor:
        """`x`: (rows * tokens, width), and so the result."""
        qkv = self.qkv(self.norm_1(x)).view(rows, -1, 3, self.heads, x.shape[-1] // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, self)
        x = x + self.project(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.contract(self.activation(self.expand(self.norm_2(x))))

    def tensors(self) -> Iterator[Tensor]:
        """Its weights."""
        for norm in (self.norm_1, self.norm_2):
            yield from norm.tensors()
        for linear in (self.qkv, self.project, self.expand, self.contract):
            yield from linear.tensors()

    def attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """softmax(QK^T * scale) V. Shapes: (rows, heads, tokens, head width)."""
        if self.upcast:
            query, key = query.float(), key.float()
            mixed = F.scaled_dot_product_attention(query, key, value.float(), mask, 0.0, causal, scale=self.scale)
            return mixed.to(value.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=self.scale)

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """softmax(QK^T * scale) with what comes later hidden, (rows, heads, tokens, tokens), float32.

        The fast kernel behind `attention` never holds these.
        """
        scores = query.float() @ key.float().transpose(-1, -2) * self.scale
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1)


# Given a layer's query, key and value of new tokens, and the block: the mixed values.
Attend = Callable[[Tensor, Tensor, Tensor, Block], Tensor]


def attend_causally(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
    """Attend among the new tokens alone, each to itself and those before it."""
    return block.attention(query, key, value, None, causal=True)


def attend_each(lengths: Tensor, keys: Tensor, values: Tensor) -> Attend:
    """Keep each row's one new token at the row's length; attend to it and those before it.

    `lengths`: (rows,); `keys`, `values`: (layers, rows, heads, tokens, head width). Shapes do not depend on lengths.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    seen = (torch.arange(keys.shape[3], device=lengths.device) <= lengths[:, None])[:, None, None]

    def attend(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
        kept_keys, kept_values = keys[block.layer], values[block.layer]
        kept_keys[rows, :, lengths] = key[:, :, 0]
        kept_values[rows, :, lengths] = value[:, :, 0]
        return block.attention(query, kept_keys, kept_values, seen, causal=False)

    return attend


class GPT2:
    """A GPT-2 ready to run, built on its weights without copying them; they are taken out of `weights` one by one.

    `capture` is what may record its decode steps, see `graph`.
    """

    def __init__(
        self,
        config: Config,
        weights: MutableMapping[str, Tensor],
        precision: Precision = FLOAT,
        capture: Capture | None = None,
    ) -> None:
        self.graphs = Graphs(capture)
        self.config = config
        self.vocab_size = config.vocab_size
        self.context: int | None = config.n_positions
        self.layers = config.n_layer
        self.tied = config.tie_word_embeddings
        self.positions = precision.plain(weights.pop("wpe.weight"))
        self.blocks = [Block(weights, config, layer, precision) for layer in range(config.n_layer)]
        self.norm = precision.norm(weights.pop("ln_f.weight"), weights.pop("ln_f.bias"), config.layer_norm_epsilon)
        self.tokens = precision.embedding(weights.pop("wte.weight"))
        self.head: Embedding = precision.embedding(weights.pop(HEAD)) if HEAD in weights else self.tokens

    @property
    def device(self) -> torch.device:
        """See Network."""
        return self.positions.device

    @property
    def graph_note(self) -> str | None:
        """See Network."""
        return self.graphs.note

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, GPT2Cache]:
        """See Network. Shorter prompts are padded on the right, where causal attention never looks."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        longest = max(len(prompt) for prompt in prompts)
        check_room(longest + room, self.context)
        padded = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=self.device)
        cache = GPT2Cache.empty(self, len(prompts), longest + room)
        hidden = self.hidden(padded, torch.arange(longest, device=padded.device), cache.write_prompts)
        cache.lengths, cache.longest, cache.ragged = lengths, longest, len(set(map(len, prompts))) > 1
        last = hidden[torch.arange(len(prompts), device=padded.device) * longest + lengths - 1]
        return self.head(last), cache

    @torch.inference_mode()
    def watch(self, prompt: Sequence[int], room: int, layers: Sequence[int]) -> tuple[Tensor, GPT2Cache, Tensor]:
        """See Network."""
        check_room(len(prompt) + room, self.context)
        ids = torch.tensor([list(prompt)], device=self.device)
        cache = GPT2Cache.empty(self, 1, len(prompt) + room)
        positions = torch.arange(len(prompt), device=ids.device)
        last, states = self.states(ids, positions, cache.write_prompts, layers)
        cache.lengths, cache.longest = cache.lengths + len(prompt), len(prompt)
        return self.head(last[-1:]), cache, states

    @torch.inference_mode()
    def read_out(self, states: Tensor) -> Tensor:
        """See Network."""
        return self.head(states)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """See Network."""
        return self.logits_of([ids], [0])

    @torch.inference_mode()
    def logits_of(self, rows: Sequence[Sequence[int]], skips: Sequence[int]) -> Tensor:
        """See Network. Shorter rows are padded on the right, where causal attention never looks."""
        longest = max(len(row) for row in rows)
        check_room(longest, self.context)
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        positions = torch.arange(longest, device=padded.device)
        lengths = torch.tensor([len(row) for row in rows], device=padded.device)
        first = torch.tensor(list(skips), device=padded.device)
        wanted = (positions >= first[:, None]) & (positions < lengths[:, None])
        return self.head(self.hidden(padded, positions, attend_causally)[wanted.flatten()])

    @torch.inference_mode()
    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """See Network."""
        seen: list[Tensor] = []

        def attend(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
            weights = block.weights(query, key)
            seen.append(weights[0])
            return weights.to(value.dtype) @ value

        self._run_one(ids, attend)
        return seen

    @torch.inference_mode()
    def queries_and_keys(self, ids: Sequence[int]) -> list[QueryKey]:
        """See Network."""
        seen: list[QueryKey] = []

        def attend(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
            seen.append(QueryKey(query[0], key[0], block.scale, None))
            return attend_causally(query, key, value, block)

        self._run_one(ids, attend)
        return seen

    def _run_one(self, ids: Sequence[int], attend: Attend) -> Tensor:
        check_room(len(ids), self.context)
        row = torch.tensor([list(ids)], device=self.device)
        return self.hidden(row, torch.arange(len(ids), device=row.device), attend)

    def decode(self, ids: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See Decode: attention goes over the whole memory, with what is beyond a row's length hidden."""
        return self.head(self.hidden(ids[:, None], lengths[:, None], attend_each(lengths, keys, values)))

    def row_bytes(self, length: int) -> int:
        """See Network: the cache, and some copies of a row of logits in double precision."""
        cache = 2 * self.config.n_layer * self.config.n_embd * length * self.positions.element_size()
        return 2 * cache + 4 * 8 * self.vocab_size

    def step_bytes(self, rows: int, length: int) -> int:
        """See Network."""
        weights = sum(tensor.nbytes for tensor in self._tensors()) - self.positions.nbytes
        return weights + 2 * rows * length * self.config.n_layer * self.config.n_embd * self.positions.element_size()

    def _tensors(self) -> Iterator[Tensor]:
        """Every weight once."""
        yield self.positions
        yield from self.tokens.tensors()
        if self.head is not self.tokens:
            yield from self.head.tensors()
        yield from self.norm.tensors()
        for block in self.blocks:
            yield from block.tensors()

    def hidden(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The stream after the last block, normalised. `ids`: (rows, tokens). Shape: (rows * tokens, width)."""
        return deque(self._stream(ids, positions, attend), maxlen=1).pop()

    def states(self, ids: Tensor, positions: Tensor, attend: Attend, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `hidden`, with the stream after these layers. Shape: (rows * tokens, len(layers), width)."""
        every = list(self._stream(ids, positions, attend))
        return every[-1], torch.stack([every[layer] for layer in layers], dim=1)

    def _stream(self, ids: Tensor, positions: Tensor, attend: Attend) -> Iterator[Tensor]:
        """The embeddings, and the stream after each block, the last of it normalised."""
        x = (self.tokens.look_up(ids) + F.embedding(positions, self.positions)).flatten(0, 1)
        for block in self.blocks:
            yield x
            x = block(x, len(ids), attend)
        yield self.norm(x)


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
    def watch(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See WatchedCache."""
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
    def take(self, rows: Tensor) -> GPT2Cache:
        """See Cache."""
        taken = GPT2Cache(self.model, self.keys[:, rows], self.values[:, rows])
        taken.lengths, taken.longest, taken.ragged = self.lengths[rows], self.longest, self.ragged
        taken._reach = self._reach
        return taken

    def fresh(self, rows: int, length: int) -> GPT2Cache:
        """See SharedCache."""
        made = GPT2Cache.empty(self.model, rows, length)
        made.lengths = made.lengths[:0]
        return made

    @torch.inference_mode()
    def put(self, places: Tensor, source: GPT2Cache, rows: Tensor, room: int) -> None:
        """See SharedCache."""
        filled = source.longest
        count = max(len(self.lengths), int(places.max()) + 1)
        self._reserve(count, filled + room)
        for mine, others in ((self.keys, source.keys), (self.values, source.values)):
            mine[:, places, :, :filled] = others[:, rows, :, :filled]
            # A number that is none would spoil the sequence even where it is masked.
            mine[:, places, :, filled : self._reach] = 0.0
        self._reach = max(self._reach, filled)
        lengths = self.lengths.new_zeros(count)
        lengths[: len(self.lengths)] = self.lengths
        lengths[places] = source.lengths[rows]
        self._measure(lengths)

    def crop(self, rows: int) -> None:
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
