"""A step of greedy and of every kind that samples: a token for each sequence, and what becomes of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.checks import require_choice, require_numbers
from genlm.decoding.completion import Completion, FinishReason, TracedToken
from genlm.decoding.distribution import log_total
from genlm.decoding.filters import request_filters
from genlm.decoding.request import Request
from genlm.decoding.rowfilters import make_row_filters
from genlm.decoding.text import TextStream
from genlm.decoding.trace import trace_tokens

# The vocabulary is summed in blocks of this many tokens before one is looked into.
BLOCK = 256


@dataclass(eq=False)
class Row:
    """One sequence under way; `ids` begin with the prompt's."""

    request: Request
    index: int
    ids: list[int]
    text: TextStream
    random: Random
    logprob: float = 0.0
    trace: list[TracedToken] = field(default_factory=list)

    @property
    def new(self) -> int:
        """How many tokens were generated."""
        return len(self.ids) - len(self.request.prompt_ids)


def start(request: Request, index: int, random: Random) -> Row:
    """A row that holds the prompt."""
    text = TextStream(request.decode, request.prompt_ids, request.stop)
    return Row(request, index, list(request.prompt_ids), text, random)


class Chooser:
    """Chooses tokens as a request's strategy does, for rows of any requests with the same `kind_of_filters`."""

    def __init__(self, request: Request) -> None:
        self.strategy = request.strategy
        self._filters = request_filters(request)
        self._row_filters = make_row_filters(request.strategy)

    def choose(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """The next token of each row; its log-probability is added to the row's. `logits`: (rows, vocab).

        Raises:
            ModelError: logits that are not numbers, or none left to choose from. Nothing has been drawn then.
        """
        total = log_total(logits)
        require_numbers(total, rows[0].new)
        filtered = logits
        for apply in self._filters:
            filtered = apply(filtered, [row.ids for row in rows])
        if self._filters:
            require_choice(filtered, self.strategy, rows[0].new)
        chosen, filtered = self._pick(filtered, rows)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - total
        for row, logprob in zip(rows, logprobs.tolist(), strict=True):
            row.logprob += logprob
        _note_trace(logits, filtered, chosen, rows)
        ids: list[int] = chosen.tolist()
        return ids

    def _pick(self, shared: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """A token of each row, and what it was chosen from."""
        filtered = shared
        for each in self._row_filters:
            filtered = each.narrow(filtered, rows)
        if self.strategy.samples:
            chosen = draw(filtered, [row.random.random() for row in rows])
        else:
            chosen = filtered.argmax(-1)
        for each in self._row_filters:
            each.note(shared, chosen, rows)
        return chosen, filtered


def _note_trace(logits: Tensor, filtered: Tensor, chosen: Tensor, rows: Sequence[Row]) -> None:
    pieces = rows[0].request.pieces
    if pieces is not None:
        for row, traced in zip(rows, trace_tokens(logits, filtered, chosen, pieces), strict=True):
            row.trace.append(traced)


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


def grow(row: Row, token: int) -> tuple[str, FinishReason | None]:
    """Add a token to a row. Returns the text that it makes certain, and why the row ends, if it does."""
    row.ids.append(token)
    is_last = row.new == row.request.max_new_tokens
    reason: FinishReason | None = "eos" if token in row.request.eos_ids else "length" if is_last else None
    text = "" if reason == "eos" else row.text.push(token)
    if reason is not None:
        text += row.text.finish()
    return text, "stop" if row.text.stopped else reason


def completion(row: Row, reason: FinishReason) -> Completion:
    """What a row that has ended has become."""
    ids = tuple(row.ids[len(row.request.prompt_ids) :])
    # A loop that traces no token leaves that to one pass afterwards.
    trace = tuple(row.trace) or None
    return Completion(row.index, row.text.text, ids, reason, row.logprob, trace)
