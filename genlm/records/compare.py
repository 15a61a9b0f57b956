"""Strategies side by side, with their samples and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from genlm.decoding.completion import FinishReason, TracedToken
from genlm.decoding.declaration import Plain
from genlm.records.model import ModelInfo

# The metrics of a comparison of strategies, in the order in which they are shown.
METRICS = (
    "perplexity",
    "judge_perplexity",
    "mean_logprob",
    "entropy",
    "self_bleu_4",
    "self_bleu_5",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "zipf",
    "repetition",
    "seq_rep_4",
    "length",
    "ended",
    "tokens_per_s",
)


@dataclass(frozen=True)
class Judgement:
    """What another model makes of a text, in its own tokens: their number, and the sum of their log-probabilities."""

    logprob: float
    tokens: int


@dataclass(frozen=True)
class Sample:
    """A text in a comparison: completion `index` of prompt `prompt`, or a human text, after that prompt or after none.

    `logprobs` and `entropies` have an entry for each of `token_ids`, under the model's own distribution (nats); None
    for a first token that nothing stands before. `finish_reason` is None for human text, whose writer ended it.
    `trace` is there for the first texts only: a page shows no more.
    """

    prompt: int | None
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[float | None, ...]
    entropies: tuple[float | None, ...]
    judgement: Judgement | None = None
    trace: tuple[TracedToken, ...] | None = None

    @property
    def words(self) -> tuple[int, ...]:
        """Its tokens, without the one that ended it."""
        return self.token_ids[:-1] if self.finish_reason == "eos" else self.token_ids


@dataclass(frozen=True)
class Cell:
    """A strategy on a prompt: its samples, and the seconds that decoding them took; or why there are none.

    The cells of human text have no seconds, and `prompt` None where the text follows none.
    """

    prompt: int | None
    samples: tuple[Sample, ...] = ()
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval; both ends are None for a single text."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StrategyRow:
    """A strategy in a comparison, or human text, which has no `spec`.

    `swept` are the fields that a grid gave it. A metric is None where the texts do not define it. `distances` are those
    of the metrics to the human text's.
    """

    name: str
    spec: str | None
    swept: dict[str, Plain]
    cells: tuple[Cell, ...]
    metrics: dict[str, Estimate | None]
    distances: dict[str, float | None] | None = None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples of all its cells."""
        return tuple(sample for cell in self.cells for sample in cell.samples)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells without samples."""
        return tuple(cell for cell in self.cells if cell.error is not None)


@dataclass(frozen=True)
class StrategyComparison:
    """Strategies side by side on the same prompts; the row of human text, where there is one, is the last."""

    model: ModelInfo
    judge: ModelInfo | None
    seed: int
    max_new_tokens: int
    num_return_sequences: int
    prompts: tuple[str, ...]
    rows: tuple[StrategyRow, ...]

    @property
    def strategies(self) -> tuple[StrategyRow, ...]:
        """The rows of strategies."""
        return tuple(row for row in self.rows if row.spec is not None)

    @property
    def reference(self) -> StrategyRow | None:
        """The row of human text."""
        return next((row for row in self.rows if row.spec is None), None)
