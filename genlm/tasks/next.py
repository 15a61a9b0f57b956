"""The next token: its distribution, a comparison of continuations, or a tree of likely ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genlm.errors import InputError, UsageError
from genlm.model.pieces import Pieces
from genlm.records.generation import Overflow
from genlm.records.inspection import (
    Branch,
    Candidate,
    Comparison,
    Continuation,
    ContinuationToken,
    Filtered,
    NextToken,
    Tree,
)
from genlm.tasks.generate import bad_words_ids, check_biases, encode_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.decoding.strategy import Strategy
    from genlm.model.load import Model

DEFAULT_TOP = 10
# A deeper tree could be neither shown nor written as JSON.
MOST_STEPS = 100
# The number of tokens to name of those that a strategy rules out.
CUT_SHOWN = 5


def next_token(
    model: Model,
    prompt: str,
    *,
    top: int = DEFAULT_TOP,
    strategy: Strategy | None = None,
    overflow: Overflow = "error",
) -> NextToken:
    """Return the distribution of the token after `prompt`, and the one that a strategy chooses from.

    Raises:
        UsageError: `top` is less than 1.
        InputError: a prompt that the model cannot take.
        ModelError: logits that are not numbers.
    """
    check_at_least_one("top", top)
    ids = encode_prompt(model, prompt, 0, overflow)
    logits = _last_logits(model, ids)
    scores = _distribution(model, logits, [ids], strategy, len(ids)) if strategy is not None else None
    from genlm.decoding.distribution import entropy

    return NextToken(
        model.info,
        prompt,
        ids,
        model.network.vocab_size,
        entropy(logits).item(),
        _candidates(model, logits[0], None if scores is None else scores[0], top),
        _describe(model, strategy, logits[0], scores[0]) if strategy is not None and scores is not None else None,
    )


def compare_continuations(
    model: Model,
    prompt: str,
    continuations: Sequence[str],
    *,
    strategy: Strategy | None = None,
    overflow: Overflow = "error",
) -> Comparison:
    """Return how likely each of the texts is to follow `prompt`: the product of its tokens' probabilities.

    Raises:
        UsageError: no continuation, or an empty one.
        InputError: a prompt or continuation that the model cannot take.
        ModelError: logits that are not numbers.
    """
    if not continuations or "" in continuations:
        raise UsageError("a candidate must not be empty")
    encoded = [continuation_ids(model, prompt, text) for text in continuations]
    ids = encode_prompt(model, prompt, max(map(len, encoded)) - 1, overflow)
    logits = _last_logits(model, ids)
    from genlm.decoding.distribution import entropy

    scored = [_score_continuation(model, ids, own, strategy) for own in encoded]
    sums = [sum(token.logprob for token in tokens) for tokens in scored]
    total = math.log(sum(math.exp(logprob - max(sums)) for logprob in sums)) + max(sums)
    order = sorted(range(len(sums)), key=lambda at: -sums[at])
    return Comparison(
        model.info,
        prompt,
        ids,
        entropy(logits).item(),
        strategy,
        tuple(
            Continuation(rank, continuations[at], scored[at], math.exp(sums[at] - total))
            for rank, at in enumerate(order, 1)
        ),
    )


def grow_tree(
    model: Model,
    prompt: str,
    steps: int,
    branches: int,
    *,
    strategy: Strategy | None = None,
    overflow: Overflow = "error",
) -> Tree:
    """Return the `branches` most likely continuations after each of `steps` tokens, as a tree.

    With a strategy, they are the most likely under that strategy.

    Raises:
        UsageError: fewer than one step or branch, or more steps than can be shown.
        InputError: a prompt that the model cannot take.
        ModelError: logits that are not numbers.
    """
    check_at_least_one("steps", steps)
    check_at_least_one("branches", branches)
    if steps > MOST_STEPS:
        raise UsageError(f"steps must be at most {MOST_STEPS}, not {steps}")
    import torch

    from genlm.decoding.distribution import check_logits, entropy

    ids = encode_prompt(model, prompt, steps - 1, overflow)
    logits, cache = model.network.prefill([ids], steps - 1)
    first_entropy = entropy(logits).item()
    root = Branch(-1, "", 0.0, 0.0, ends=False)
    tips, histories = [root], [ids]
    pieces = Pieces(model.tokenizer)
    for left in range(steps, 0, -1):
        check_logits(logits)
        scores = logits if strategy is None else _distribution(model, logits, histories, strategy, len(ids))
        grown = _grow(tips, scores.log_softmax(-1), branches, pieces, model.eos_ids)
        tips = [branch for _, branch in grown if not branch.ends]
        if left == 1 or not tips:
            break
        parents = [parent for parent, branch in grown if not branch.ends]
        histories = [(*histories[parent], branch.id) for parent, branch in zip(parents, tips, strict=True)]
        cache = cache.select(torch.tensor(parents, device=logits.device))
        logits = cache.step(torch.tensor([branch.id for branch in tips], device=logits.device))
    return Tree(model.info, prompt, ids, strategy, steps, first_entropy, root.children)


def continuation_ids(model: Model, prompt: str, text: str) -> tuple[int, ...]:
    """Return the ids of a continuation: as part of the whole text if that keeps the prompt's ids, else by itself.

    Raises:
        InputError: a text that the tokenizer cannot express.
    """
    encode = model.tokenizer.encode
    # The start of the prompt changes neither the ids of the continuation nor the last ones of the prompt.
    prompt = model.tokenizer.end_of(prompt, 1)
    whole = encode(prompt + text)
    before = encode(prompt) if prompt else []
    if prompt and len(whole) > len(before) and whole[: len(before)] == before:
        ids = whole[len(before) :]
    else:
        ids = [token for part in Pieces(model.tokenizer).encode(text) for token in part]
    beyond = next((token for token in ids if token >= model.network.vocab_size), None)
    if not ids or beyond is not None:
        raise InputError(f"the model's tokenizer cannot express the candidate {text!r}")
    return tuple(ids)


def check_at_least_one(name: str, value: int) -> None:
    """Raise UsageError if a count is less than 1."""
    if value < 1:
        raise UsageError(f"{name} must be at least 1, not {value}")


def _last_logits(model: Model, ids: Sequence[int]) -> Tensor:
    """Return the next token's logits, (1, vocab)."""
    from genlm.decoding.distribution import check_logits

    logits, _ = model.network.prefill([ids], 0)
    check_logits(logits)
    return logits


def _distribution(
    model: Model, logits: Tensor, history: Sequence[Sequence[int]], strategy: Strategy, prompt_length: int
) -> Tensor:
    """Return the scores that a strategy chooses by, (rows, vocab); -inf is ruled out.

    Raises:
        UsageError: a strategy whose choice depends on chance or on earlier draws, or that has a bias for a token that
            the model does not have.
    """
    from genlm.decoding.processors import make_processors, make_stateful_processors

    if make_stateful_processors(strategy):
        raise UsageError(f"{strategy.spec} has no single distribution: it depends on chance or on earlier draws")
    check_biases(model, strategy)
    processors = make_processors(
        strategy,
        prompt_length=prompt_length,
        eos_ids=model.eos_ids,
        bad_words_ids=bad_words_ids(model, strategy),
    )
    return processors.distribution(logits, history)


def _candidates(model: Model, logits: Tensor, scores: Tensor | None, top: int) -> tuple[Candidate, ...]:
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(min(top, len(logprobs)))
    after = None if scores is None else scores.softmax(-1)[best.indices].tolist()
    pieces = Pieces(model.tokenizer)
    return tuple(
        _candidate(pieces, rank, id, logprob, None if after is None else after[rank - 1])
        for rank, (id, logprob) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True), 1)
    )


def _candidate(pieces: Pieces, rank: int, id: int, logprob: float, after: float | None) -> Candidate:
    return Candidate(rank, id, pieces.text_of(id), math.exp(logprob), logprob, after, pieces.incomplete_bytes(id))


def _describe(model: Model, strategy: Strategy, logits: Tensor, scores: Tensor) -> Filtered:
    from genlm.decoding.distribution import entropy

    logprobs = logits.log_softmax(-1)
    is_cut = scores.isneginf()
    cut = int(is_cut.sum())
    best = logprobs.masked_fill(~is_cut, -math.inf).topk(min(CUT_SHOWN, cut))
    ranks = [int((logprobs > value).sum()) + 1 for value in best.values]
    pieces = Pieces(model.tokenizer)
    return Filtered(
        strategy,
        entropy(scores[None]).item(),
        len(logits) - cut,
        cut,
        logprobs[is_cut].exp().sum().item(),
        tuple(
            _candidate(pieces, rank, id, logprob, 0.0)
            for rank, id, logprob in zip(ranks, best.indices.tolist(), best.values.tolist(), strict=True)
        ),
    )


def _score_continuation(
    model: Model, before: Sequence[int], ids: Sequence[int], strategy: Strategy | None
) -> tuple[ContinuationToken, ...]:
    import torch

    from genlm.decoding.distribution import check_logits

    logits = model.network.logits_of([[*before, *ids[:-1]]], [len(before) - 1])
    check_logits(logits)
    history = [[*before, *ids[:at]] for at in range(len(ids))]
    wanted = torch.tensor(ids, device=logits.device)[:, None]
    own = logits.log_softmax(-1).gather(-1, wanted)[:, 0].tolist()
    after: Sequence[float | None] = [None] * len(ids)
    if strategy is not None:
        scores = _distribution(model, logits, history, strategy, len(before))
        after = scores.log_softmax(-1).gather(-1, wanted)[:, 0].tolist()
    pieces = Pieces(model.tokenizer)
    rows = zip(ids, own, after, strict=True)
    return tuple(ContinuationToken(id, pieces.text_of(id), logprob, filtered) for id, logprob, filtered in rows)


def _grow(
    tips: Sequence[Branch], logprobs: Tensor, count: int, pieces: Pieces, eos_ids: frozenset[int]
) -> list[tuple[int, Branch]]:
    """Add the `count` most likely children of all tips. Return each with the index of its parent."""
    paths = logprobs + logprobs.new_tensor([tip.path_logprob for tip in tips])[:, None]
    best = paths.flatten().topk(min(count, paths.numel()))
    grown: list[tuple[int, Branch]] = []
    for at, path_logprob in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        parent, id = divmod(at, logprobs.shape[-1])
        if path_logprob == -math.inf:
            break
        branch = Branch(id, pieces.text_of(id), logprobs[parent, id].item(), path_logprob, id in eos_ids)
        tips[parent].children.append(branch)
        grown.append((parent, branch))
    return grown
