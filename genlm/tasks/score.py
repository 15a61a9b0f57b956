"""How likely a model finds a text: log-probability, perplexity, bits per byte, and the rank of every token."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING

from genlm.errors import InputError, UsageError
from genlm.formats.texts import Text
from genlm.model.pieces import Pieces
from genlm.records.inspection import RANK_BOUNDS, ScoredText, ScoreSettings, Tally, TokenScore
from genlm.tasks.generate import check_vocabulary

if TYPE_CHECKING:
    from genlm.decoding.distribution import Scores
    from genlm.model.load import Model
    from genlm.model.network import Network

# The window for a model without a context limit.
UNBOUNDED = 1024
# The logits of one forward pass take at most this much memory, and its rows have at most this many tokens.
LOGITS_BYTES = 1 << 27
MOST_TOKENS = 1024
# Windows are collected and sorted by length: at most this many, or enough for this many forward passes.
MOST_WINDOWS = 256
PASSES = 4
# A text waits at most this long for others, in seconds.
MOST_WAIT_S = 1.0


class Scorer:
    """Scores texts one after the other, in bounded memory. Iterate over it; `total` is the sum of those so far.

    `bos` puts a start token before each text, so that its first token has a probability too; by default if the model
    has one. Without `keep_tokens`, results lack their tokens, which take most of the memory.

    Raises:
        UsageError: a stride beyond the context.
        InputError: `bos` for a model without a start token; while iterating, a text that the model cannot take.
        ModelError: while iterating, logits that are not numbers.
    """

    def __init__(
        self,
        model: Model,
        texts: Iterable[Text],
        *,
        bos: bool | None = None,
        stride: int | None = None,
        keep_tokens: bool = True,
    ) -> None:
        if bos and model.start_id is None:
            raise InputError("the model has no start token", code="no-start-token")
        self.model = model
        self.bos = model.start_id is not None if bos is None else bos
        self.sliding = SlidingWindow.over(model.network.context, stride)
        self.keep_tokens = keep_tokens
        self.total = Tally()
        self._texts = texts
        self._pieces = Pieces(model.tokenizer)

    @property
    def settings(self) -> ScoreSettings:
        """The settings that the scores depend on."""
        return {"bos": self.bos, "window": self.sliding.size, "stride": self.sliding.stride}

    def __iter__(self) -> Iterator[ScoredText]:
        for collected in self._collect():
            scores = score_windows(self.model.network, [window for _, window in collected])
            for (text, window), score in zip(collected, scores, strict=True):
                text.add(window, score)
                if window.is_last:
                    scored = text.finish()
                    self.total += scored.tally
                    yield scored

    def _collect(self) -> Iterator[list[tuple[_PartlyScored, Window]]]:
        """Yield the windows of all texts in groups that are large enough to sort, or smaller if texts arrive slowly."""
        most = PASSES * tokens_at_once(self.model.network)
        collected: list[tuple[_PartlyScored, Window]] = []
        tokens, started = 0, monotonic()
        for text, window in self._windows():
            collected.append((text, window))
            tokens += len(window.inputs)
            if len(collected) == MOST_WINDOWS or tokens >= most or monotonic() - started > MOST_WAIT_S:
                yield collected
                collected, tokens, started = [], 0, monotonic()
        if collected:
            yield collected

    def _windows(self) -> Iterator[tuple[_PartlyScored, Window]]:
        start = [self.model.start_id] if self.bos and self.model.start_id is not None else []
        for each in self._texts:
            text = _PartlyScored(each, self._pieces, self.keep_tokens)
            ids = text.count(self._encode(each))
            for window in self.sliding.windows(chain([start], ids)):
                yield text, window

    def _encode(self, text: Text) -> Iterator[list[int]]:
        for ids in self._pieces.encode(text.text):
            check_vocabulary(self.model, ids)
            yield ids


def score_text(model: Model, text: str, *, bos: bool | None = None, stride: int | None = None) -> ScoredText:
    """Return the score of one text. Raise as `Scorer` does."""
    (scored,) = Scorer(model, [Text(text)], bos=bos, stride=stride)
    return scored


@dataclass
class _PartlyScored:
    """A text and the sums over its scored windows."""

    text: Text
    pieces: Pieces
    keep_tokens: bool
    first_id: int | None = None
    num_tokens: int = 0
    num_scored: int = 0
    logprob: float = 0.0
    ranks: list[int] = field(default_factory=lambda: [0] * (len(RANK_BOUNDS) + 1))
    tokens: list[TokenScore] = field(default_factory=list)

    def count(self, parts: Iterable[list[int]]) -> Iterator[list[int]]:
        """Yield the ids of the text, and count them."""
        for ids in parts:
            if ids and self.first_id is None:
                self.first_id = ids[0]
            self.num_tokens += len(ids)
            yield ids

    def add(self, window: Window, scores: Scores | None) -> None:
        """Add the scores of the next window."""
        if scores is None:
            return
        logprobs, ranks = scores.logprobs.tolist(), scores.ranks.tolist()
        self.num_scored += len(logprobs)
        self.logprob += sum(logprobs)
        for rank in ranks:
            self.ranks[bisect.bisect_left(RANK_BOUNDS, rank)] += 1
        if self.keep_tokens:
            rows = zip(window.targets, logprobs, ranks, scores.entropies.tolist(), strict=True)
            self.tokens += [self._token(*row) for row in rows]

    def finish(self) -> ScoredText:
        """Return the scored text."""
        tokens = tuple(self._unscored() + self.tokens) if self.keep_tokens else None
        return ScoredText(self.text.text, self.text.source, self.text.line, tokens, self._tally())

    def _tally(self) -> Tally:
        num_bytes = len(self.text.text.encode("utf-8"))
        unscored = sum(len(self.pieces.bytes_of(token.id)) for token in self._unscored())
        scored_bytes = max(0, num_bytes - unscored)
        return Tally(1, self.num_tokens, num_bytes, self.num_scored, scored_bytes, self.logprob, tuple(self.ranks))

    def _unscored(self) -> list[TokenScore]:
        """Return the first token if nothing precedes it, so that it has no score."""
        if self.first_id is None or self.num_scored == self.num_tokens:
            return []
        return [self._token(self.first_id, None, None, None)]

    def _token(self, id: int, logprob: float | None, rank: int | None, entropy: float | None) -> TokenScore:
        return TokenScore(id, self.pieces.text_of(id), logprob, rank, entropy, self.pieces.incomplete_bytes(id))


# Texts longer than the context.


@dataclass(frozen=True)
class Window:
    """Tokens for one row of a forward pass.

    `targets` are the tokens to score, which follow each of `inputs` after the first `skip`. `is_last` marks the end of
    a text.
    """

    inputs: Sequence[int]
    skip: int
    targets: Sequence[int]
    is_last: bool


@dataclass(frozen=True)
class SlidingWindow:
    """A window of `size` tokens that starts every `stride` tokens.

    Each window scores only the tokens that the one before did not reach. Every token after the first window thus has at
    least `size - stride` tokens before it: a smaller stride gives the model more context but is slower.
    """

    size: int
    stride: int

    @classmethod
    def over(cls, context: int | None, stride: int | None) -> SlidingWindow:
        """Return a window as long as the context; by default, successive windows overlap by half.

        Raises:
            UsageError: a stride beyond the window.
        """
        size = context or UNBOUNDED
        chosen = max(1, size // 2) if stride is None else stride
        if not 1 <= chosen <= size:
            raise UsageError(f"the stride must be from 1 to the model's context of {size}, not {chosen}")
        return cls(size, chosen)

    def windows(self, parts: Iterable[Sequence[int]]) -> Iterator[Window]:
        """Yield the windows over a text whose ids come in parts: at least one, which may be empty."""
        ids: list[int] = []
        skip = 0
        for part in parts:
            ids += part
            at = 0
            while len(ids) - at > self.size + 1:
                yield self._window(ids[at : at + self.size + 1], skip, is_last=False)
                at += self.stride
                skip = self.size - self.stride
            del ids[:at]
        yield self._window(ids, skip, is_last=True)

    def _window(self, ids: Sequence[int], skip: int, *, is_last: bool) -> Window:
        return Window(ids[:-1], skip, ids[skip + 1 :], is_last)


def score_windows(network: Network, windows: Sequence[Window]) -> list[Scores | None]:
    """Return the scores of each window's targets, or None if it has none. Windows of similar length run together."""
    scores: list[Scores | None] = [None] * len(windows)
    order = [at for at in sorted(range(len(windows)), key=lambda at: len(windows[at].inputs)) if windows[at].targets]
    for group in _groups(windows, order, tokens_at_once(network)):
        for at, score in zip(group, _score_group(network, [windows[at] for at in group]), strict=True):
            scores[at] = score
    return scores


def tokens_at_once(network: Network) -> int:
    """Return how many tokens one forward pass takes."""
    return max(1, min(MOST_TOKENS, LOGITS_BYTES // (4 * network.vocab_size)))


def _groups(windows: Sequence[Window], order: Sequence[int], most: int) -> Iterator[list[int]]:
    """Divide `order`, shortest windows first, into groups of at most `most` tokens, including padding."""
    group: list[int] = []
    for at in order:
        if group and (len(group) + 1) * len(windows[at].inputs) > most:
            yield group
            group = []
        group.append(at)
    if group:
        yield group


def _score_group(network: Network, windows: Sequence[Window]) -> Iterator[Scores]:
    import torch

    from genlm.decoding.distribution import Scores, score_tokens

    logits = network.logits_of([window.inputs for window in windows], [window.skip for window in windows])
    targets = torch.tensor([token for window in windows for token in window.targets], device=logits.device)
    scores = score_tokens(logits, targets)
    lengths = [len(window.targets) for window in windows]
    columns = (scores.logprobs, scores.ranks, scores.entropies)
    return (Scores(*parts) for parts in zip(*(column.split(lengths) for column in columns), strict=True))
