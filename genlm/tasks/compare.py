"""Strategies side by side on the same prompts, beside human text, and what the metrics say of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from genlm.decoding.completion import Completion
from genlm.decoding.declaration import Plain
from genlm.decoding.dispatch import prefill_order, share_prefill
from genlm.decoding.kinds.standard import NUM_BEAMS
from genlm.decoding.strategy import Strategy
from genlm.errors import GenlmError, InputError, ModelError
from genlm.model.memory import is_out_of_memory
from genlm.records.compare import Cell, Sample, StrategyComparison, StrategyRow
from genlm.tasks.generate import Limits, Overflow, continue_prompt, result_of
from genlm.tasks.metrics import Metrics, distances, measure_all
from genlm.tasks.others import HumanTexts, Judge

if TYPE_CHECKING:
    from genlm.model.load import Model

DEFAULT_STRATEGIES = ("greedy", "beam", "top-k", "top-p")
# As many tokens keep their alternatives as a page shows, shared among the strategies; they take most of the memory.
MOST_TRACED = 20_000
HUMAN = "reference"
OUT_OF_MEMORY, NEEDS_LESS = "out of memory", "use fewer completions, fewer tokens, or a smaller model"


@dataclass(frozen=True)
class Contender:
    """A strategy of a comparison; `swept` are the fields that a grid gave it."""

    strategy: Strategy
    swept: Mapping[str, Plain]


@dataclass(frozen=True)
class Settings:
    """How every strategy runs: `samples` completions a prompt, where it has as many, of up to `max_new_tokens`.

    Raises UsageError for a count that makes no sense.
    """

    max_new_tokens: int
    samples: int
    seed: int
    overflow: Overflow = "error"

    def __post_init__(self) -> None:
        Limits(self.max_new_tokens, self.samples, (), self.overflow)

    def limits(self, strategy: Strategy) -> Limits:
        """Those of a strategy: beams have no more completions than there are of them, other searches have one."""
        beams = strategy.get(NUM_BEAMS)
        has = beams if beams is not None else self.samples if strategy.samples else 1
        return Limits(self.max_new_tokens, min(self.samples, has), (), self.overflow)


class Comparing:
    """A comparison under way. Iterate to run it cell by cell; `result` is then there.

    A prompt is encoded once for all strategies, and all samples of a strategy are decoded together. Human text goes
    first; of it and of each prompt under each strategy there is a cell, with an error where the model or prompt fails
    or the memory does not suffice. `done` counts those that were run.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[str],
        contenders: Sequence[Contender],
        settings: Settings,
        *,
        human: Sequence[str] = (),
        judge: Model | None = None,
    ) -> None:
        self.model = model
        self.prompts = tuple(prompts)
        self.contenders = tuple(contenders)
        self.settings = settings
        self.judge = judge
        self._human = tuple(human)
        self._limits = [settings.limits(contender.strategy) for contender in contenders]
        self._judging = Judge(judge) if judge is not None else None
        self.done = 0
        self._errors: list[GenlmError] = []
        self._rows = [_Gathered(MOST_TRACED // (len(contenders) + bool(human))) for _ in contenders]
        self._human_row = _Gathered(MOST_TRACED // (len(contenders) + 1))

    def __len__(self) -> int:
        """How many cells there are."""
        return len(self._human) + len(self.contenders) * len(self.prompts)

    def __iter__(self) -> Iterator[Cell]:
        reader = HumanTexts(self.model, self.prompts, self.settings.max_new_tokens)
        for index, text in enumerate(self._human):
            yield self._take(self._human_row, reader.prompt_of(text), partial(self._read, reader, index, text))
        network = share_prefill(self.model.network, self.settings.max_new_tokens)
        model = replace(self.model, network=network)
        order = sorted(range(len(self.contenders)), key=lambda at: prefill_order(self.contenders[at].strategy))
        for place in range(len(self.prompts)):
            for at in order:
                yield self._take(self._rows[at], place, partial(self._run, model, at, place))

    def stop(self, reason: str) -> None:
        """Let every cell that was not run have failed, for this reason."""
        for row in self._rows:
            row.cells += [Cell(place, error=reason) for place in range(len(row.cells), len(self.prompts))]
        self._human_row.cells += [Cell(None, error=reason) for _ in self._human[len(self._human_row.cells) :]]

    @property
    def has_samples(self) -> bool:
        """Whether any strategy has a text."""
        return any(row.has_samples for row in self._rows)

    @property
    def result(self) -> StrategyComparison:
        """The comparison, once all cells were taken. Where no strategy has a sample, the first error is raised."""
        if not self.has_samples:
            raise self._errors[0]
        human = measure_all(self._human_row.cells, self.settings.seed) if self._human else None
        rows = [self._row(at, row.cells, human) for at, row in enumerate(self._rows)]
        if human is not None:
            rows.append(StrategyRow(HUMAN, None, {}, tuple(self._human_row.cells), human))
        return StrategyComparison(
            self.model.info,
            None if self.judge is None else self.judge.info,
            self.settings.seed,
            self.settings.max_new_tokens,
            self.settings.samples,
            self.prompts,
            tuple(rows),
        )

    def _row(self, at: int, cells: Sequence[Cell], human: Metrics | None) -> StrategyRow:
        contender = self.contenders[at]
        metrics = measure_all(cells, self.settings.seed)
        apart = None if human is None else distances(metrics, human)
        strategy = contender.strategy
        return StrategyRow(strategy.name, strategy.spec, dict(contender.swept), tuple(cells), metrics, apart)

    def _take(self, row: _Gathered, place: int | None, run: Callable[[], Cell]) -> Cell:
        """What `run` gives, judged and taken into its row."""
        try:
            cell = self._judged(run())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._errors.append(ModelError(OUT_OF_MEMORY, hint=NEEDS_LESS))
            cell = Cell(place, error=OUT_OF_MEMORY)
        kept = row.take(cell)
        self.done += 1
        return kept

    def _run(self, model: Model, at: int, place: int) -> Cell:
        strategy, limits, seed = self.contenders[at].strategy, self._limits[at], self.settings.seed
        try:
            result = result_of(continue_prompt(model, self.prompts[place], strategy, limits, seed, trace=True))
        except (InputError, ModelError) as error:
            self._errors.append(error)
            return Cell(place, error=str(error))
        samples = tuple(_sample(place, completion) for completion in result.completions)
        return Cell(place, samples, result.timing.decode_s)

    def _read(self, reader: HumanTexts, index: int, text: str) -> Cell:
        try:
            sample = reader.read(index, text)
        except InputError as error:
            return Cell(reader.prompt_of(text), error=str(error))
        return Cell(sample.prompt, (sample,))

    def _judged(self, cell: Cell) -> Cell:
        if self._judging is None or not cell.samples:
            return cell
        prompt = "" if cell.prompt is None else self.prompts[cell.prompt]
        found = self._judging.judge([prompt] * len(cell.samples), [sample.text for sample in cell.samples])
        pairs = zip(cell.samples, found, strict=True)
        return replace(cell, samples=tuple(replace(sample, judgement=each) for sample, each in pairs))


class _Gathered:
    """The cells of a row so far. Its first `room` tokens keep their alternatives."""

    def __init__(self, room: int) -> None:
        self.cells: list[Cell] = []
        self._room = room

    @property
    def has_samples(self) -> bool:
        """Whether not every cell failed."""
        return any(cell.samples for cell in self.cells)

    def take(self, cell: Cell) -> Cell:
        """Add a cell, and return it."""
        kept = replace(cell, samples=tuple(self._lightened(sample) for sample in cell.samples))
        self.cells.append(kept)
        return kept

    def _lightened(self, sample: Sample) -> Sample:
        fits = len(sample.token_ids) <= self._room
        self._room -= len(sample.token_ids) if fits else self._room
        return sample if fits else replace(sample, trace=None)


def _sample(place: int, completion: Completion) -> Sample:
    trace = completion.trace or ()
    return Sample(
        place,
        completion.index,
        completion.text,
        completion.token_ids,
        completion.finish_reason,
        tuple(token.logprob for token in trace),
        tuple(token.entropy for token in trace),
        trace=trace,
    )
