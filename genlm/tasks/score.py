"""How likely a model finds a text: log-probability, perplexity, bits per byte, and every token's rank."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING

from genlm.errors import InputError
from genlm.formats.texts import Text
from genlm.model.pieces import Pieces
from genlm.records.inspection import RANK_BOUNDS, ScoredText, ScoreSettings, Tally, TokenScore
from genlm.tasks.windows import Sliding, Window, score_windows, tokens_at_once

if TYPE_CHECKING:
    from genlm.decoding.distribution import Scores
    from genlm.model.load import Model

# Windows that are gathered before they are sorted by length and run.
MOST_WINDOWS = 256
PASSES = 4
# A text waits no longer than this for others to come, in seconds.
MOST_WAIT_S = 1.0


class Scoring:
    """Scores texts one after the other, however many. Iterate over it; `total` sums up what was scored so far.

    With `bos` a start token stands before each text, so that its first token has a probability too; None means:
    if the model has a start token. `keep_tokens` False leaves out the tokens, which take most of the memory.

    Raises:
        UsageError: a stride beyond the context.
        InputError: `bos` for a model without a start token.
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
        self.sliding = Sliding.over(model.network.context, stride)
        self.keep_tokens = keep_tokens
        self.total = Tally()
        self._texts = texts
        self._pieces = Pieces(model.tokenizer)

    @property
    def settings(self) -> ScoreSettings:
        """What the numbers depend on beside the model."""
        return {"bos": self.bos, "window": self.sliding.size, "stride": self.sliding.stride}

    def __iter__(self) -> Iterator[ScoredText]:
        for shelf in self._shelves():
            scores = score_windows(self.model.network, [window for _, window in shelf])
            for (job, window), score in zip(shelf, scores, strict=True):
                job.add(window, score)
                if window.is_last:
                    scored = job.finish()
                    self.total += scored.tally
                    yield scored

    def _shelves(self) -> Iterator[list[tuple[_Job, Window]]]:
        """The windows of all texts in groups that are worth sorting; smaller ones where texts come slowly."""
        most = PASSES * tokens_at_once(self.model.network)
        shelf: list[tuple[_Job, Window]] = []
        tokens, started = 0, monotonic()
        for job, window in self._windows():
            shelf.append((job, window))
            tokens += len(window.inputs)
            if len(shelf) == MOST_WINDOWS or tokens >= most or monotonic() - started > MOST_WAIT_S:
                yield shelf
                shelf, tokens, started = [], 0, monotonic()
        if shelf:
            yield shelf

    def _windows(self) -> Iterator[tuple[_Job, Window]]:
        start = [self.model.start_id] if self.bos and self.model.start_id is not None else []
        for text in self._texts:
            job = _Job(text, self._pieces, self.keep_tokens)
            ids = job.watch(self._encode(text))
            for window in self.sliding.windows(chain([start], ids)):
                yield job, window

    def _encode(self, text: Text) -> Iterator[list[int]]:
        vocab_size = self.model.network.vocab_size
        for ids in self._pieces.encode(text.text):
            beyond = next((token for token in ids if token >= vocab_size), None)
            if beyond is not None:
                raise InputError(
                    f"the tokenizer gives token {beyond}, beyond the model's vocabulary of {vocab_size}",
                    hint="the tokenizer and the weights are not of the same model",
                )
            yield ids


def score_text(model: Model, text: str, *, bos: bool | None = None, stride: int | None = None) -> ScoredText:
    """The score of one text. Raises as `Scoring`."""
    (scored,) = Scoring(model, [Text(text)], bos=bos, stride=stride)
    return scored


@dataclass
class _Job:
    """A text under way."""

    text: Text
    pieces: Pieces
    keep_tokens: bool
    first_id: int | None = None
    num_tokens: int = 0
    num_scored: int = 0
    logprob: float = 0.0
    ranks: list[int] = field(default_factory=lambda: [0] * (len(RANK_BOUNDS) + 1))
    tokens: list[TokenScore] = field(default_factory=list)

    def watch(self, parts: Iterable[list[int]]) -> Iterator[list[int]]:
        """Count the tokens that go by."""
        for ids in parts:
            if ids and self.first_id is None:
                self.first_id = ids[0]
            self.num_tokens += len(ids)
            yield ids

    def add(self, window: Window, scores: Scores | None) -> None:
        """Take in the scores of the text's next window."""
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
        """The scored text."""
        tokens = tuple(self._first() + self.tokens) if self.keep_tokens else None
        return ScoredText(self.text.text, self.text.source, self.text.line, tokens, self._tally())

    def _tally(self) -> Tally:
        num_bytes = len(self.text.text.encode("utf-8"))
        unscored = sum(len(self.pieces.bytes_of(token.id)) for token in self._first())
        scored_bytes = max(0, num_bytes - unscored)
        return Tally(1, self.num_tokens, num_bytes, self.num_scored, scored_bytes, self.logprob, tuple(self.ranks))

    def _first(self) -> list[TokenScore]:
        """The first token where nothing stands before it, so that it has no score."""
        if self.first_id is None or self.num_scored == self.num_tokens:
            return []
        return [self._token(self.first_id, None, None, None)]

    def _token(self, id: int, logprob: float | None, rank: int | None, entropy: float | None) -> TokenScore:
        return TokenScore(id, self.pieces.text_of(id), logprob, rank, entropy, self.pieces.incomplete_bytes(id))
