"""The loop of greedy and of every kind that samples: one token a step for all rows, finished rows dropped."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.checks import require_choice, require_numbers
from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled, TracedToken
from genlm.decoding.filters import Filter, request_filters
from genlm.decoding.lookup import LookupCache, Rewindable
from genlm.decoding.randomness import streams
from genlm.decoding.request import Request
from genlm.decoding.rowfilters import RowFilter, make_row_filters
from genlm.decoding.text import TextStream
from genlm.decoding.trace import trace_tokens
from genlm.model.memory import rows_that_fit
from genlm.model.network import Cache, Network

# The vocabulary is summed in blocks of this many tokens before one is looked into.
BLOCK = 256
# Rows are dropped from a cache once no more than this part of them goes on, for each time it is copied.
SPARSE = 0.75


@dataclass
class Row:
    """One sequence under way; `ids` begin with the prompt's."""

    index: int
    ids: list[int]
    text: TextStream
    random: Random
    logprob: float = 0.0
    trace: list[TracedToken] = field(default_factory=list)


def sample(network: Network, request: Request) -> Iterator[Event]:
    """Decode `request.count` sequences, all at once or in as large groups as the memory holds.

    Sequence i is the same whatever the count and the groups: it has a random stream of its own.
    """
    logits, prompt = network.prefill([request.prompt_ids], request.max_new_tokens)
    yield Prefilled()
    stream = streams(request.seed, request.prompt_ids)
    size = 1 if request.alone else rows_that_fit(network, len(request.prompt_ids) + request.max_new_tokens)
    for first in range(0, request.count, size):
        indices = range(first, min(first + size, request.count))
        rows = [start(request, index, stream(index)) for index in indices]
        batch = Batch(prompt, len(rows), 1 if request.alone else request.least_rows, logits.device)
        if looks_up(batch.cache, request):
            batch.cache = LookupCache(batch.cache, request.prompt_ids)
        yield from _decode(request, rows, batch, logits.expand(len(rows), -1))


def looks_up(cache: Cache, request: Request) -> TypeGuard[Rewindable]:
    """Whether drafts can pay: a text that is likely to repeat itself, alone in a cache that takes tokens back."""
    may_draft = request.speculate and not request.alone and not request.strategy.samples
    return may_draft and request.count == request.least_rows == 1 and isinstance(cache, Rewindable)


class Batch:
    """Sequences in the rows of a cache. Those that have ended stay until they are many, or a copy would not pay."""

    def __init__(self, prompt: Cache, count: int, least_rows: int, device: torch.device) -> None:
        self.cache = prompt
        self.least_rows = least_rows
        self.device = device
        # Which row of the cache each sequence has.
        self.places: list[int] = []
        self.size = 0
        self._take([0] * count)

    def keep(self, sequences: Sequence[int]) -> None:
        """Go on with these of the sequences, named by their place among those under way."""
        self.places = [self.places[at] for at in sequences]
        if len(self.places) <= SPARSE * self.size:
            self._take(self.places)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Add a token to each sequence. Returns the next token's logits: (sequences, vocab)."""
        ids = torch.zeros(self.size, dtype=torch.long)
        ids[self.places] = torch.tensor(tokens)
        logits = self.cache.step(ids.to(self.device))
        return logits if len(self.places) == self.size else logits[self.places]

    def _take(self, rows: list[int]) -> None:
        self.places = list(range(len(rows)))
        self.size = max(len(rows), self.least_rows)
        filled = rows + rows[:1] * (self.size - len(rows))
        self.cache = self.cache.take(torch.tensor(filled, device=self.device))


def _decode(request: Request, rows: list[Row], batch: Batch, logits: Tensor) -> Iterator[Event]:
    filters = request_filters(request)
    row_filters = make_row_filters(request.strategy)
    for step in range(request.max_new_tokens):
        tokens = _choose(logits, rows, filters, row_filters, request, step)
        alive = []
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            reason = yield from grow(row, token, request, is_last=step + 1 == request.max_new_tokens)
            if reason is None:
                alive.append(at)
            else:
                yield completion(row, request, reason)
        if not alive:
            return
        if len(alive) < len(rows):
            rows, tokens = [rows[at] for at in alive], [tokens[at] for at in alive]
            batch.keep(alive)
        logits = batch.step(tokens)


def start(request: Request, index: int, random: Random) -> Row:
    """A row that holds the prompt."""
    text = TextStream(request.decode, request.prompt_ids, request.stop)
    return Row(index, list(request.prompt_ids), text, random)


def _choose(
    logits: Tensor, rows: list[Row], filters: list[Filter], row_filters: list[RowFilter], request: Request, step: int
) -> list[int]:
    """The next token of each row; its log-probability is added to the row's."""
    total = log_total(logits)
    require_numbers(total, step)
    filtered = logits
    for apply in filters:
        filtered = apply(filtered, [row.ids for row in rows])
    if filters:
        require_choice(filtered, request.strategy, step)
    shared = filtered
    for each in row_filters:
        filtered = each.narrow(filtered, rows)
    if request.strategy.samples:
        chosen = draw(filtered, [row.random.random() for row in rows])
    else:
        chosen = filtered.argmax(-1)
    for each in row_filters:
        each.note(shared, chosen, rows)
    logprobs = logits.gather(-1, chosen[:, None])[:, 0] - total
    for row, logprob in zip(rows, logprobs.tolist(), strict=True):
        row.logprob += logprob
    if request.pieces is not None:
        for row, traced in zip(rows, trace_tokens(logits, filtered, chosen, request.pieces), strict=True):
            row.trace.append(traced)
    ids: list[int] = chosen.tolist()
    return ids


def log_total(logits: Tensor) -> Tensor:
    """The log of each row's summed exponentials, (rows, vocab) to (rows,), off the probability of the likeliest.

    `logsumexp` says the same, and takes twice as long.
    """
    return logits.amax(-1) - logits.softmax(-1).amax(-1).log()


def draw(logits: Tensor, uniforms: Sequence[float]) -> Tensor:
    """One token a row by the inverse of the cumulative distribution, in the order of the vocabulary.

    Logits: (rows, vocab), -inf for what is out; uniforms: one number from [0, 1) a row. Returns ids: (rows,).
    """
    precise = precision(logits.device)
    probabilities = F.pad(logits.softmax(-1), (0, -logits.shape[-1] % BLOCK)).view(len(logits), -1, BLOCK)
    blocks = probabilities.sum(-1, dtype=precise)
    targets = torch.tensor(uniforms, dtype=precise, device=logits.device)[:, None] * blocks.sum(-1, keepdim=True)
    block, rest = _find(blocks, targets)
    inside = probabilities.take_along_dim(block[..., None], 1)[:, 0].to(precise)
    return (block * BLOCK + _find(inside, rest)[0])[:, 0]


def _find(parts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The part of each row in which the row's target lies, and how far into it. Targets and results: (rows, 1)."""
    cumulative = parts.cumsum(-1)
    total = cumulative[:, -1:]
    # A target that rounding has moved up to the total would lie past the last part.
    targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(cumulative, targets, right=True)
    return place, targets - F.pad(cumulative, (1, -1)).gather(-1, place)


def precision(device: torch.device) -> torch.dtype:
    """The finest type of numbers that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def grow(row: Row, token: int, request: Request, *, is_last: bool) -> Generator[Piece, None, FinishReason | None]:
    """Add a token to a row, yield the text that it makes certain, return why the row ends, if it does."""
    row.ids.append(token)
    reason: FinishReason | None = "eos" if token in request.eos_ids else "length" if is_last else None
    text = "" if reason == "eos" else row.text.push(token)
    if reason is not None:
        text += row.text.finish()
    if text:
        yield Piece(row.index, text)
    return "stop" if row.text.stopped else reason


def completion(row: Row, request: Request, reason: FinishReason) -> Completion:
    """What a row that has ended has become."""
    ids = tuple(row.ids[len(request.prompt_ids) :])
    # A loop that traces no token leaves that to one pass afterwards.
    trace = tuple(row.trace) or None
    return Completion(row.index, row.text.text, ids, reason, row.logprob, trace)
