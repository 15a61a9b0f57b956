"""GPT-2's forward pass, lean: torch only, the keys and values of all tokens kept in one preallocated cache.

Radford et al. 2019, with every variation that transformers' GPT2Config describes. It gives the same logits as
transformers' GPT2LMHeadModel up to float rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, MutableMapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.model.gpt2_block import Attend, Block, attend_causally, attend_each
from genlm.model.gpt2_cache import GPT2Cache
from genlm.model.gpt2_config import HEAD, Config
from genlm.model.graph import Capture, Graphs
from genlm.model.linear import FLOAT, Embedding, Precision
from genlm.model.network import QueryKey, check_room


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
    def prefill_with_states(
        self, prompt: Sequence[int], room: int, layers: Sequence[int]
    ) -> tuple[Tensor, GPT2Cache, Tensor]:
        """See Network."""
        check_room(len(prompt) + room, self.context)
        ids = torch.tensor([list(prompt)], device=self.device)
        cache = GPT2Cache.empty(self, 1, len(prompt) + room)
        positions = torch.arange(len(prompt), device=ids.device)
        last, states = self.states(ids, positions, cache.write_prompts, layers)
        cache.lengths, cache.longest = cache.lengths + len(prompt), len(prompt)
        return self.head(last[-1:]), cache, states

    @torch.inference_mode()
    def logits_from_states(self, states: Tensor) -> Tensor:
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
