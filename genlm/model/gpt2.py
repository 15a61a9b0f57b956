"""GPT-2 (Radford et al. 2019), with every variation that transformers' GPT2Config describes.

It reads from top to bottom: configuration, embedding, linear layer, attention, MLP, block, head, model, and the cache
of keys and values. The logits equal those of transformers' GPT2LMHeadModel up to rounding.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlm.errors import show
from genlm.model.attention import softmax_of
from genlm.model.graph import Capture, Graphs, Steps
from genlm.model.network import QueryKey, check_room
from genlm.model.operators import find_linear

HEAD = "lm_head.weight"

# The configuration, from `config.json`.

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
}

# Other names that transformers accepts for fields of a GPT2Config.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


@dataclass(frozen=True)
class Config:
    """The part of GPT2Config that the forward pass depends on."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Config:
        """Return the config for the contents of a `config.json`.

        Raises:
            ValueError: a field has an impossible value.
        """
        config = {ALIASES.get(name, name): value for name, value in config.items()}
        result = cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})
        for field in fields(cls):
            _check_value(field.name, getattr(result, field.name), field.default)
        if result.n_embd % result.n_head:
            raise ValueError(f"n_embd={result.n_embd} cannot be divided among n_head={result.n_head} heads")
        return result

    @property
    def inner(self) -> int:
        """The width of the MLP's hidden layer."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd


def _check_value(name: str, value: object, default: object) -> None:
    """Raise ValueError if a field's value is not of the same kind as its default."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if default is None:
        fits, wanted = value is None or is_count, "a positive integer or null"
    elif isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = is_count, "a positive integer"
    elif isinstance(default, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits, wanted = is_number and 0 <= value <= sys.float_info.max, "a number at least 0"  # type: ignore[operator]
    else:
        fits, wanted = value in ACTIVATIONS, "a known activation function"
    if not fits:
        raise ValueError(f"{name} must be {wanted}, not {show(value)}")


def supports(config: Mapping[str, Any]) -> bool:
    """Return whether this module covers the model that a `config.json` describes."""
    return (
        config.get("model_type") == "gpt2"
        and config.get("architectures") in (None, ["GPT2LMHeadModel"])
        and str(config.get("activation_function", "gelu_new")) in ACTIVATIONS
        and not config.get("add_cross_attention")
        and not config.get("quantization_config")
    )


# The modules.


class Module(nn.Module):
    """A module without hooks: calling it calls `forward` directly, which shortens the decode steps of small models."""

    __call__: Callable[..., Tensor]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__call__ = cls.forward  # type: ignore[method-assign]


def speed_up_attributes(model: nn.Module) -> None:
    """Store parameters, buffers and submodules as plain attributes too, which Python finds without nn.Module's help.

    Call it once they have their final values. Without it the steps of a small model take up to a tenth longer.
    """
    for module in model.modules():
        own = (module.named_parameters(recurse=False), module.named_buffers(recurse=False), module.named_children())
        vars(module).update(chain(*own))


class LayerNorm(Module, nn.LayerNorm):
    """Layer normalization."""


class Embedding(Module):
    """A vector for each id. Unlike nn.Embedding it draws no random weights, which is slow on the meta device."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of `ids`: (*ids, width)."""
        return F.embedding(ids, self.weight)


class Linear(Module):
    """A linear layer whose weight is (in, out), as in GPT-2's checkpoints; transformers calls it Conv1D."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in) to (n, out)."""
        return find_linear()(x, self.weight.t(), self.bias)


class Attention(Module):
    """Multi-head self-attention."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.layer = layer
        self.heads = config.n_head
        self.head_width = config.n_embd // config.n_head
        self.upcast = config.reorder_and_upcast_attn
        self.scale = 1.0 / math.sqrt(self.head_width) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, x: Tensor, rows: int, attend: Attend) -> Tensor:
        """Let new tokens attend to each other and to earlier ones. `x`: (rows * tokens, width), like the result."""
        qkv = self.c_attn(x).view(rows, -1, 3, self.heads, self.head_width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = attend(self, query, key, value)
        return self.c_proj(mixed.transpose(1, 2).reshape(x.shape))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        """Return softmax(QK^T * scale) V. Shapes: (rows, heads, tokens, head width)."""
        if self.upcast:
            query, key = query.float(), key.float()
            mixed = F.scaled_dot_product_attention(query, key, value.float(), mask, 0.0, is_causal, scale=self.scale)
            return mixed.to(value.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale=self.scale)


# (attention, query, key, value) of new tokens -> the mixed values. It may add keys and values to a cache and use those
# of earlier tokens. Shapes: (rows, heads, tokens, head width).
Attend: TypeAlias = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]


def attend_causally(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Let each new token attend to itself and to the new tokens before it."""
    return attention.mix(query, key, value, None, is_causal=True)


def attend_to_memory(lengths: Tensor, keys: Tensor, values: Tensor) -> Attend:
    """Let the one new token of each row attend to itself and to earlier tokens; keep its key and value.

    `lengths`: (rows,); `keys`, `values`: (layers, rows, heads, tokens, head width). No shape depends on the lengths.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    visible = (torch.arange(keys.shape[3], device=lengths.device) <= lengths[:, None])[:, None, None]

    def attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        own_keys, own_values = keys[attention.layer], values[attention.layer]
        own_keys[rows, :, lengths] = key[:, :, 0]
        own_values[rows, :, lengths] = value[:, :, 0]
        return attention.mix(query, own_keys, own_values, visible, is_causal=False)

    return attend


class MLP(Module):
    """The feed-forward network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner)
        self.c_proj = Linear(config.inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (n, width), like the result."""
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(Module):
    """Attention and MLP, each applied to a normalized copy of the stream and added to it."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rows: int, attend: Attend) -> Tensor:
        """`x`: (rows * tokens, width), like the result."""
        x = x + self.attn(self.ln_1(x), rows, attend)
        return x + self.mlp(self.ln_2(x))


class Head(Module):
    """The output head."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, states: Tensor) -> Tensor:
        """Return logits, (n, vocab), float32. `states`: (n, width)."""
        return find_linear()(states, self.weight, None).float()


class GPT2(Module):
    """GPT-2 with its output head, as a Network. `capture` may record its decode steps, see `graph`."""

    def __init__(self, config: Config, capture: Capture | None = None) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = Head(config.n_embd, config.vocab_size)
        self.requires_grad_(False)
        self.config = config
        self.vocab_size = config.vocab_size
        self.context: int | None = config.n_positions
        self.layers = config.n_layer
        self.tied = config.tie_word_embeddings
        self.graphs = Graphs(capture)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Use these weights where they are, without a copy. If there is none for the head, tie it to the embedding."""
        head = weights.get(HEAD, weights["wte.weight"])
        self.load_state_dict({**weights, HEAD: head}, strict=True, assign=True)
        if HEAD not in weights:
            self.lm_head.weight = self.wte.weight
        speed_up_attributes(self)

    def forward(self, ids: Tensor, positions: Tensor, attend: Attend, states: list[Tensor] | None = None) -> Tensor:
        """Return the last hidden state of `ids`, (rows, tokens). Shape: (rows * tokens, width).

        Append all hidden states to `states`: the embeddings, and the stream after each block, the last one normalized.
        """
        x = (self.wte(ids) + self.wpe(positions)).flatten(0, 1)
        for block in self.h:
            if states is not None:
                states.append(x)
            x = block(x, len(ids), attend)
        x = self.ln_f(x)
        if states is not None:
            states.append(x)
        return x

    # The interface to decoding.

    @property
    def device(self) -> torch.device:
        """See Network."""
        return self.wpe.weight.device

    @property
    def graph_note(self) -> str | None:
        """See Network."""
        return self.graphs.note

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], room: int) -> tuple[Tensor, GPT2Cache]:
        """See Network."""
        return self._prefill(prompts, room, None)

    @torch.inference_mode()
    def prefill_with_states(
        self, prompt: Sequence[int], room: int, layers: Sequence[int]
    ) -> tuple[Tensor, GPT2Cache, Tensor]:
        """See Network."""
        states: list[Tensor] = []
        logits, cache = self._prefill([prompt], room, states)
        return logits, cache, torch.stack([states[layer] for layer in layers], dim=1)

    def _prefill(
        self, prompts: Sequence[Sequence[int]], room: int, states: list[Tensor] | None
    ) -> tuple[Tensor, GPT2Cache]:
        ids, lengths = self._pad(prompts)
        longest = ids.shape[1]
        check_room(longest + room, self.context)
        cache = GPT2Cache.empty(self, len(prompts), longest + room)
        hidden = self(ids, torch.arange(longest, device=ids.device), cache.write_prompts, states)
        cache.lengths, cache.longest, cache.ragged = lengths, longest, len(set(map(len, prompts))) > 1
        last = hidden[torch.arange(len(prompts), device=ids.device) * longest + lengths - 1]
        return self.lm_head(last), cache

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids padded on the right, where causal attention never looks, and the length of each row."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        return ids, torch.tensor([len(row) for row in rows], device=self.device)

    @torch.inference_mode()
    def logits_from_states(self, states: Tensor) -> Tensor:
        """See Network."""
        return self.lm_head(states)

    @torch.inference_mode()
    def logits_of(self, rows: Sequence[Sequence[int]], skips: Sequence[int]) -> Tensor:
        """See Network."""
        ids, lengths = self._pad(rows)
        check_room(ids.shape[1], self.context)
        positions = torch.arange(ids.shape[1], device=ids.device)
        first = torch.tensor(list(skips), device=ids.device)
        wanted = (positions >= first[:, None]) & (positions < lengths[:, None])
        return self.lm_head(self(ids, positions, attend_causally)[wanted.flatten()])

    @torch.inference_mode()
    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """See Network. The fast kernel never holds these weights, so they are computed by definition."""
        layers: list[Tensor] = []

        def attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            layers.append(softmax_of(QueryKey(query[0], key[0], attention.scale, None)))
            return layers[-1].to(value.dtype) @ value

        self._run_one(ids, attend)
        return layers

    @torch.inference_mode()
    def queries_and_keys(self, ids: Sequence[int]) -> list[QueryKey]:
        """See Network."""
        layers: list[QueryKey] = []

        def attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            layers.append(QueryKey(query[0], key[0], attention.scale, None))
            return attend_causally(attention, query, key, value)

        self._run_one(ids, attend)
        return layers

    def _run_one(self, ids: Sequence[int], attend: Attend) -> None:
        check_room(len(ids), self.context)
        row = torch.tensor([list(ids)], device=self.device)
        self(row, torch.arange(len(ids), device=row.device), attend)

    def decode(self, ids: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See Decode."""
        hidden = self(ids[:, None], lengths[:, None], attend_to_memory(lengths, keys, values))
        return self.lm_head(hidden)

    def row_bytes(self, length: int) -> int:
        """See Network: the cache, with room for a copy, and some copies of a row of logits in double precision."""
        return 2 * self._cache_bytes(length) + 4 * 8 * self.vocab_size

    def step_bytes(self, rows: int, length: int) -> int:
        """See Network."""
        parts = (self.h, self.ln_f, self.lm_head)
        weights = sum(tensor.nbytes for part in parts for tensor in (*part.parameters(), *part.buffers()))
        return weights + rows * self._cache_bytes(length)

    def _cache_bytes(self, length: int) -> int:
        return 2 * self.config.n_layer * self.config.n_embd * length * self.wpe.weight.element_size()


class GPT2Cache:
    """The keys and values of every layer: those of row r's tokens are at 0 .. lengths[r] - 1.

    The memory may hold more rows than the cache has.
    """

    def __init__(self, model: GPT2, keys: Tensor, values: Tensor) -> None:
        self.model = model
        self._graphs = model.graphs
        self._use(keys, values)
        self.lengths = torch.zeros(keys.shape[1], dtype=torch.long, device=keys.device)
        self.longest = 0
        # Positions from here on have never been written to.
        self._written = 0
        self.ragged = False

    @classmethod
    def empty(cls, model: GPT2, rows: int, capacity: int) -> GPT2Cache:
        """Return a cache for `rows` sequences of up to `capacity` tokens."""
        config = model.config
        shape = (config.n_layer, rows, config.n_head, capacity, config.n_embd // config.n_head)
        # Zeros, because a masked position still counts as 0 times its value.
        return cls(model, model.wpe.weight.new_zeros(shape), model.wpe.weight.new_zeros(shape))

    @property
    def room(self) -> int:
        """How many more tokens each row can take."""
        return self.keys.shape[3] - self.longest

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """See Cache."""
        check_room(self.longest + 1, self.keys.shape[3])
        logits = self._steps.run(ids, self.lengths, lambda: self._forward(ids))
        self._lengthen(1)
        return logits

    @torch.inference_mode()
    def step_with_states(self, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See HiddenStatesCache."""
        check_room(self.longest + 1, self.keys.shape[3])
        states: list[Tensor] = []
        logits = self._forward(ids, states)
        self._lengthen(1)
        return logits, torch.stack([states[layer] for layer in layers], dim=1)

    def _forward(self, ids: Tensor, states: list[Tensor] | None = None) -> Tensor:
        """Return the logits after one more token for each row, (rows,), and keep the tokens' keys and values."""
        if not self.ragged:
            return self.model.lm_head(self.model(ids[:, None], self.lengths[:1], self._attend_evenly(1, None), states))
        rows, end = len(self.lengths), self.longest + 1
        attend = attend_to_memory(self.lengths, self.keys[:, :rows, :, :end], self.values[:, :rows, :, :end])
        return self.model.lm_head(self.model(ids[:, None], self.lengths[:, None], attend, states))

    @torch.inference_mode()
    def extend(self, ids: Tensor) -> Tensor:
        """See Rewindable, for rows of one length. `ids`: (rows, n). Shape: (rows * n, vocab)."""
        new = ids.shape[1]
        check_room(self.longest + new, self.keys.shape[3])
        positions = torch.arange(self.longest, self.longest + new, device=ids.device)
        visible = torch.arange(self.longest + new, device=ids.device) <= positions[:, None]
        hidden = self.model(ids, positions, self._attend_evenly(new, visible))
        self._lengthen(new)
        return self.model.lm_head(hidden)

    def drop(self, tokens: int) -> None:
        """See Rewindable. Later tokens overwrite the dropped ones."""
        self._lengthen(-tokens)

    @torch.inference_mode()
    def select(self, rows: Tensor) -> GPT2Cache:
        """See Cache."""
        selected = GPT2Cache(self.model, self.keys[:, rows], self.values[:, rows])
        selected.lengths, selected.longest, selected.ragged = self.lengths[rows], self.longest, self.ragged
        selected._written = self._written
        return selected

    def new_empty(self, rows: int, length: int) -> GPT2Cache:
        """See SharedCache."""
        cache = GPT2Cache.empty(self.model, rows, length)
        cache.lengths = cache.lengths[:0]
        return cache

    @torch.inference_mode()
    def insert(self, slots: Tensor, source: GPT2Cache, rows: Tensor, room: int) -> None:
        """See SharedCache."""
        filled = source.longest
        count = max(len(self.lengths), int(slots.max()) + 1)
        self._reserve(count, filled + room)
        for memory, other in ((self.keys, source.keys), (self.values, source.values)):
            memory[:, slots, :, :filled] = other[:, rows, :, :filled]
            # A stale NaN would leak through the mask.
            memory[:, slots, :, filled : self._written] = 0.0
        self._written = max(self._written, filled)
        lengths = self.lengths.new_zeros(count)
        lengths[: len(self.lengths)] = self.lengths
        lengths[slots] = source.lengths[rows]
        self._set_lengths(lengths)

    def keep_first(self, rows: int) -> None:
        """See SharedCache. The memory of the other rows is kept for later ones."""
        self._set_lengths(self.lengths[:rows])

    def never_capture(self) -> None:
        """See Capturable."""
        self._graphs = Graphs()
        self._use(self.keys, self.values)

    def write_prompts(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend causally and keep the keys and values of the prompts."""
        self._written = key.shape[2]
        self.keys[attention.layer, :, :, : self._written] = key
        self.values[attention.layer, :, :, : self._written] = value
        return attend_causally(attention, query, key, value)

    def _attend_evenly(self, new: int, visible: Tensor | None) -> Attend:
        """Let `new` tokens of each row attend to all tokens, or those that are `visible`, if all rows have one length.

        Keep the new keys and values.
        """
        rows, start, end = len(self.lengths), self.longest, self.longest + new

        def attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.keys[attention.layer, :rows, :, :end], self.values[attention.layer, :rows, :, :end]
            keys[:, :, start:] = key
            values[:, :, start:] = value
            return attention.mix(query, keys, values, visible, is_causal=False)

        return attend

    def _reserve(self, rows: int, capacity: int) -> None:
        """Make the memory large enough for this many rows and tokens."""
        old_rows, old_capacity = self.keys.shape[1], self.keys.shape[3]
        if rows > old_rows or capacity > old_capacity:
            larger = GPT2Cache.empty(self.model, max(rows, old_rows), max(capacity, old_capacity))
            larger.keys[:, :old_rows, :, : self.longest] = self.keys[:, :, :, : self.longest]
            larger.values[:, :old_rows, :, : self.longest] = self.values[:, :, :, : self.longest]
            self._use(larger.keys, larger.values)

    def _use(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self._steps = Steps(self._graphs, self.model.decode, keys, values)

    def _set_lengths(self, lengths: Tensor) -> None:
        self.lengths = lengths
        if len(lengths):
            shortest, longest = (int(length) for length in lengths.aminmax())
            self.longest, self.ragged = longest, shortest < longest
            self._written = max(self._written, longest)

    def _lengthen(self, tokens: int) -> None:
        self.lengths = self.lengths + tokens
        self.longest += tokens
        self._written = max(self._written, self.longest)
