"""The loop of greedy and of every kind that samples: one token a step for all rows, finished rows dropped."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from genlm.decoding.completion import Completion, Event, FinishReason, Piece, Prefilled
from genlm.decoding.filters import Filter, make_filters
from genlm.decoding.randomness import stream
from genlm.decoding.request import Request
from genlm.decoding.text import TextStream
from genlm.errors import ModelError
from genlm.model.memory import rows_that_fit
from genlm.model.network import Cache, Network


@dataclass
class Row:
    """One sequence under way."""

    index: int
    ids: list[int]
    text: TextStream
    pieces: list[str]
    random: Random
    logprob: float = 0.0


def sample(network: Network, request: Request) -> Iterator[Event]:
    """Decode `request.count` sequences, all at once or in as large groups as the memory holds.

    Sequence i is the same whatever the count and the groups: it has a random stream of its own.
    """
    logits, prompt = network.prefill([request.prompt_ids], request.max_new_tokens)
    yield Prefilled()
    length = len(request.prompt_ids) + request.max_new_tokens
    size = rows_that_fit(network, length)
    for first in range(0, request.count, size):
        indices = range(first, min(first + size, request.count))
        copies = torch.zeros(len(indices), dtype=torch.long, device=logits.device)
        yield from _decode(request, indices, logits[copies], prompt.take(copies))


def _decode(request: Request, indices: Sequence[int], logits: Tensor, cache: Cache) -> Iterator[Event]:
    filters = make_filters(request.strategy)
    rows = [_start(request, index) for index in indices]
    for left in range(request.max_new_tokens, 0, -1):
        chosen = _choose(logits, rows, filters, request)
        alive = []
        for at, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            reason = yield from _grow(row, token, request, is_last=left == 1)
            if reason is None:
                alive.append(at)
            else:
                yield _completion(row, request, reason)
        if not alive:
            return
        if len(alive) < len(rows):
            rows = [rows[at] for at in alive]
            chosen = [chosen[at] for at in alive]
            cache = cache.take(torch.tensor(alive, device=logits.device))
        logits = cache.step(torch.tensor(chosen, device=logits.device))


def _start(request: Request, index: int) -> Row:
    return Row(
        index,
        list(request.prompt_ids),
        TextStream(request.decode, request.prompt_ids, request.stop),
        [],
        stream(request.seed, request.prompt_ids, index),
    )


def _choose(logits: Tensor, rows: list[Row], filters: list[Filter], request: Request) -> list[int]:
    """The next token of each row; its log-probability is added to the row's."""
    total = logits.logsumexp(-1)
    if not bool(total.isfinite().all()):
        made = len(rows[0].ids) - len(request.prompt_ids)
        raise ModelError(
            f"the model's logits are not numbers (NaN or infinite) at new token {made + 1}",
            hint="its weights may be damaged, or --dtype float16 too narrow for it",
        )
    history = [row.ids for row in rows]
    filtered = logits
    for apply in filters:
        filtered = apply(filtered, history)
    if request.strategy.samples:
        chosen = draw(filtered, [row.random.random() for row in rows])
    else:
        chosen = filtered.argmax(-1)
    logprobs = logits.gather(-1, chosen[:, None])[:, 0] - total
    for row, logprob in zip(rows, logprobs.tolist(), strict=True):
        row.logprob += logprob
    ids: list[int] = chosen.tolist()
    return ids


def draw(logits: Tensor, uniforms: Sequence[float]) -> Tensor:
    """One token a row by the inverse of the cumulative distribution, in the order of the vocabulary.

    Logits: (rows, vocab), -inf for what is out; uniforms: one number from [0, 1) a row. Returns ids: (rows,).
    """
    precise = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(-1, dtype=precise).cumsum(-1)
    total = cumulative[:, -1:]
    targets = torch.tensor(uniforms, dtype=precise, device=logits.device)[:, None] * total
    # A target rounded up to the total would lie past the last token.
    targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def _grow(row: Row, token: int, request: Request, *, is_last: bool) -> Generator[Piece, None, FinishReason | None]:
    """Add a token to a row, yield the text that it makes certain, return why the row ends, if it does."""
    row.ids.append(token)
    if token in request.eos_ids:
        yield from _say(row, row.text.finish())
        return "stop" if row.text.stopped else "eos"
    yield from _say(row, row.text.push(token))
    if row.text.stopped:
        return "stop"
    if not is_last:
        return None
    yield from _say(row, row.text.finish())
    return "stop" if row.text.stopped else "length"


def _say(row: Row, text: str) -> Iterator[Piece]:
    if text:
        row.pieces.append(text)
        yield Piece(row.index, text)


def _completion(row: Row, request: Request, reason: FinishReason) -> Completion:
    ids = tuple(row.ids[len(request.prompt_ids) :])
    return Completion(row.index, "".join(row.pieces), ids, reason, row.logprob)
