"""Strategies side by side, with their samples and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from genlm.decoding.completion import FinishReason, TracedToken
from genlm.decoding.declaration import Plain
from genlm.model.info import ModelInfo
from genlm.records.generation import compact_trace
from genlm.records.made_by import MadeBy
from genlm.records.serialize import from_builtins, to_builtins

# The metrics of a comparison, in the order they are shown.
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
    """Another model's score of a text: the number of its own tokens, and the sum of their log-probabilities."""

    logprob: float
    tokens: int


@dataclass(frozen=True)
class Sample:
    """A text in a comparison: completion `index` of a prompt, or a human text, which may follow a prompt.

    `logprobs` and `entropies` have a value in nats for each of `token_ids`, under the model's own distribution; None
    for a first token with nothing before it. `finish_reason` is None for human text. Only as many texts as a page shows
    have a `trace`.
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
    """One strategy on one prompt: its samples and the seconds that decoding them took, or an error.

    A cell of human text has no seconds, and no prompt if the text follows none.
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
class Amount:
    """The amount of text from each row that a metric was computed on; `tokens` are those of all its texts."""

    texts: int
    tokens: int


@dataclass(frozen=True)
class StrategyRow:
    """A strategy in a comparison, or human text, which has no `spec`.

    `swept` are the fields that a grid gave it. A metric is None if the texts do not define it. `distances` are the
    distances of its metrics from those of the human text. `best` names the metrics in which it is clearly the best.
    """

    name: str
    spec: str | None
    swept: dict[str, Plain]
    cells: tuple[Cell, ...]
    metrics: dict[str, Estimate | None]
    distances: dict[str, float | None] | None = None
    best: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        """The tokens of all its texts, without those that end them."""
        return sum(len(sample.words) for sample in self.samples)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples of all its cells."""
        return tuple(sample for cell in self.cells for sample in cell.samples)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that have an error."""
        return tuple(cell for cell in self.cells if cell.error is not None)


@dataclass(frozen=True)
class StrategyComparison:
    """Strategies on the same prompts. The row of human text, if there is one, is the last.

    All rows have the same metrics. `amounts` has those that were computed on equal amounts of text.
    """

    made_by: MadeBy
    model: ModelInfo
    judge: ModelInfo | None
    seed: int
    max_new_tokens: int
    num_return_sequences: int
    prompts: tuple[str, ...]
    amounts: dict[str, Amount]
    rows: tuple[StrategyRow, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics of every row."""
        return tuple(name for name in METRICS if name in self.rows[0].metrics)

    @property
    def strategies(self) -> tuple[StrategyRow, ...]:
        """The rows of strategies."""
        return tuple(row for row in self.rows if row.spec is not None)

    @property
    def reference(self) -> StrategyRow | None:
        """The row of human text."""
        return next((row for row in self.rows if row.spec is None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON holds."""
        values: dict[str, Any] = to_builtins(vars(self) | {"rows": [_SavedRow.of(row) for row in self.rows]})
        for row in values["rows"]:
            for sample in row["completions"]:
                compact_trace(sample.get("trace") or [])
        return values

    @classmethod
    def from_dict(cls, values: Any) -> StrategyComparison:
        """Return the comparison that parsed JSON holds. Raise ValueError if it does not hold one."""
        saved = from_builtins(_SavedComparison, values)
        if not saved.rows or not saved.prompts:
            raise ValueError(f"{'prompts' if saved.rows else 'rows'}: empty")
        names = set(saved.rows[0].metrics)
        if not set(saved.amounts) <= names:
            raise ValueError("amounts: of a metric that the rows lack")
        rows = tuple(row.restored(f"rows[{at}]", len(saved.prompts), names) for at, row in enumerate(saved.rows))
        return cls(**(vars(saved) | {"rows": rows}))


# The JSON of a row has the samples of all cells in one list, and an estimate with nulls for an undefined metric.


@dataclass(frozen=True)
class _SavedCell:
    prompt: int | None
    completions: int
    seconds: float | None
    error: str | None


@dataclass(frozen=True)
class _SavedRow:
    strategy: str
    spec: str | None
    swept: dict[str, Plain]
    texts: int
    tokens: int
    metrics: dict[str, dict[str, float | None]]
    distances: dict[str, float | None] | None
    best: tuple[str, ...]
    completions: tuple[Sample, ...]
    error: str | None
    cells: tuple[_SavedCell, ...]

    @classmethod
    def of(cls, row: StrategyRow) -> _SavedRow:
        """Return a row as its JSON has it."""
        none: dict[str, float | None] = {"mean": None, "low": None, "high": None}
        return cls(
            row.name,
            row.spec,
            row.swept,
            len(row.samples),
            row.num_tokens,
            {name: none if each is None else dict(vars(each)) for name, each in row.metrics.items()},
            row.distances,
            row.best,
            row.samples,
            row.failed[0].error if row.failed else None,
            tuple(_SavedCell(cell.prompt, len(cell.samples), cell.seconds, cell.error) for cell in row.cells),
        )

    def restored(self, place: str, num_prompts: int, names: set[str]) -> StrategyRow:
        """Return the row. Raise ValueError, naming its place, if parts of it contradict each other."""
        if any(cell.prompt is not None and not 0 <= cell.prompt < num_prompts for cell in self.cells):
            raise ValueError(f"{place}.cells: one names a prompt that is not in the file")
        total = sum(cell.completions for cell in self.cells)
        if total != len(self.completions):
            raise ValueError(f"{place}.cells: {total} completions, but the row has {len(self.completions)}")
        if set(self.metrics) != names or not names or not names <= set(METRICS):
            raise ValueError(f"{place}.metrics: not those of this version of genlm")
        if not set(self.best) <= names or (self.distances is not None and set(self.distances) != names):
            raise ValueError(f"{place}: metrics, distances and best name different metrics")
        return StrategyRow(
            self.strategy,
            self.spec,
            self.swept,
            tuple(self._cells()),
            {name: self._estimate(name, place) for name in METRICS if name in names},
            self.distances,
            self.best,
        )

    def _cells(self) -> Iterator[Cell]:
        samples = iter(self.completions)
        for cell in self.cells:
            yield Cell(cell.prompt, tuple(islice(samples, cell.completions)), cell.seconds, cell.error)

    def _estimate(self, name: str, place: str) -> Estimate | None:
        values = self.metrics[name]
        if values.get("mean") is None:
            return None
        try:
            return from_builtins(Estimate, values)
        except ValueError as error:
            raise ValueError(f"{place}.metrics.{name}.{error}") from error


@dataclass(frozen=True)
class _SavedComparison(StrategyComparison):
    rows: tuple[_SavedRow, ...]  # type: ignore[assignment]
