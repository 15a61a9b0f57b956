"""Choose the next token of every sequence, greedily or by drawing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from genlm.decoding.distribution import check_logits
from genlm.decoding.processors import make_stateful_processors, request_processors
from genlm.decoding.request import Request, Sequence
from genlm.decoding.strategy import Strategy
from genlm.decoding.trace import trace_tokens
from genlm.errors import ModelError

# Probabilities are summed in blocks of this many tokens; only the block that holds the drawn token is searched.
BLOCK = 256


class Sampler:
    """Chooses tokens with a request's strategy, for sequences of all requests with the same `processors_key`."""

    def __init__(self, request: Request) -> None:
        self.strategy = request.strategy
        self._processors = request_processors(request)
        self._stateful = make_stateful_processors(request.strategy)

    def choose(self, logits: Tensor, sequences: list[Sequence]) -> list[int]:
        """Return the next token of each sequence and add its log-probability to the sequence.

        `logits`: (sequences, vocab).

        Raises:
            ModelError: logits that are not numbers, or no token left to choose. No random number has been taken then.
        """
        total = check_logits(logits, sequences[0].num_new)
        scores = self._processors(logits, [sequence.ids for sequence in sequences])
        if self._processors.processors:
            check_choice(scores, self.strategy, sequences[0].num_new)
        chosen, scores = self._pick(scores, sequences)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - total
        for sequence, logprob in zip(sequences, logprobs.tolist(), strict=True):
            sequence.logprob += logprob
        pieces = sequences[0].request.pieces
        if pieces is not None:
            for sequence, traced in zip(sequences, trace_tokens(logits, scores, chosen, pieces), strict=True):
                sequence.trace.append(traced)
        ids: list[int] = chosen.tolist()
        return ids

    def _pick(self, shared: Tensor, sequences: list[Sequence]) -> tuple[Tensor, Tensor]:
        """Return a token for each sequence, and the scores that it was chosen from."""
        scores = shared
        for each in self._stateful:
            scores = each.process(scores, sequences)
        if self.strategy.samples:
            chosen = draw(scores, [sequence.random.random() for sequence in sequences])
        else:
            chosen = scores.argmax(-1)
        for each in self._stateful:
            each.observe(shared, chosen, sequences)
        return chosen, scores


def choose_tokens(
    samplers: list[Sampler], logits: Tensor, sequences: list[Sequence], *, isolate: bool
) -> list[int | ModelError]:
    """Return the next token of each sequence, chosen by its own sampler. `logits`: (sequences, vocab).

    With `isolate`, a sequence that has none gets the error instead; without it, the error is raised.
    """
    rows_of: dict[Sampler, list[int]] = {}
    for row, sampler in enumerate(samplers):
        rows_of.setdefault(sampler, []).append(row)
    tokens: list[int | ModelError] = [0] * len(sequences)
    for sampler, rows in rows_of.items():
        own = logits if len(rows_of) == 1 else logits[rows]
        chosen = _choose(sampler, own, [sequences[row] for row in rows], isolate=isolate)
        for row, token in zip(rows, chosen, strict=True):
            tokens[row] = token
    return tokens


def _choose(
    sampler: Sampler, logits: Tensor, sequences: list[Sequence], *, isolate: bool
) -> Iterable[int | ModelError]:
    try:
        return sampler.choose(logits, sequences)
    except ModelError as error:
        if not isolate:
            raise
        if len(sequences) == 1:
            return [error]
    one_by_one = zip(logits.split(1), sequences, strict=True)
    return [token for own, each in one_by_one for token in _choose(sampler, own, [each], isolate=True)]


def draw(logits: Tensor, uniforms: list[float]) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution, in vocabulary order.

    `logits`: (rows, vocab), -inf for tokens that are ruled out. `uniforms`: one number in [0, 1) per row. Returns token
    ids, (rows,).
    """
    precise = precision(logits.device)
    probabilities = F.pad(logits.softmax(-1), (0, -logits.shape[-1] % BLOCK)).view(len(logits), -1, BLOCK)
    blocks = probabilities.sum(-1, dtype=precise)
    targets = torch.tensor(uniforms, dtype=precise, device=logits.device)[:, None] * blocks.sum(-1, keepdim=True)
    block, rest = _find(blocks, targets)
    inside = probabilities.take_along_dim(block[..., None], 1)[:, 0].to(precise)
    return (block * BLOCK + _find(inside, rest)[0])[:, 0]


def _find(parts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of each row that its target falls into, and how far into it. Targets and results: (rows, 1)."""
    cumulative = parts.cumsum(-1)
    total = cumulative[:, -1:]
    # Rounding can move a target up to the total, which would lie past the last part.
    targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, targets, right=True)
    return index, targets - F.pad(cumulative, (1, -1)).gather(-1, index)


def precision(device: torch.device) -> torch.dtype:
    """Return the most precise dtype that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def check_choice(scores: Tensor, strategy: Strategy, step: int) -> None:
    """Raise ModelError if the strategy has ruled out every token of a row of scores, (rows, vocab)."""
    if not bool(scores.amax(-1).isfinite().all()):
        raise ModelError(
            f"{strategy.spec} leaves no token to choose at new token {step + 1}",
            hint="a larger no_repeat_ngram_size or a repetition_penalty closer to 1 rules out fewer tokens",
        )
