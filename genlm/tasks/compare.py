"""Compare strategies on the same prompts, and with human text, by metrics."""

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
from genlm.records.generation import Overflow
from genlm.tasks.generate import Limits, continue_prompt, result_of
from genlm.tasks.metrics import Metrics, distances, measure_all
from genlm.tasks.others import HumanTexts, Judge

if TYPE_CHECKING:
    from genlm.model.load import Model

DEFAULT_STRATEGIES = ("greedy", "beam", "top-k", "top-p")
# This many tokens keep their trace, as many as a page shows, divided among the strategies: traces take most memory.
MOST_TRACED = 20_000
HUMAN = "reference"
OUT_OF_MEMORY, NEEDS_LESS = "out of memory", "use fewer completions, fewer tokens, or a smaller model"


@dataclass(frozen=True)
class Contender:
    """A strategy of a comparison; `swept` are the fields that a grid gave it."""

    strategy: Strategy
    swept: Mapping[str, Plain]


@dataclass(frozen=True)
class ComparisonSettings:
    """How every strategy runs: `samples` completions per prompt, or as many as it can give, of `max_new_tokens`.

    Raises:
        UsageError: a count that is less than 1.
    """

    max_new_tokens: int
    samples: int
    seed: int
    overflow: Overflow = "error"

    def __post_init__(self) -> None:
        Limits(self.max_new_tokens, self.samples, (), self.overflow)

    def limits(self, strategy: Strategy) -> Limits:
        """Return the limits of a strategy: one completion per beam at most, and one of any other search."""
        beams = strategy.get(NUM_BEAMS)
        most = beams if beams is not None else self.samples if strategy.samples else 1
        return Limits(self.max_new_tokens, min(self.samples, most), (), self.overflow)


class Comparing:
    """A running comparison. Iterate to run it cell by cell; `result` is complete afterwards.

    Each human text is a cell, and so is each prompt under each strategy; human texts come first. A cell has an error if
    the model cannot take its text or memory runs out. Each prompt is prefilled once for all strategies, and all samples
    of a strategy are decoded together. `done` counts the cells that were run.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[str],
        contenders: Sequence[Contender],
        settings: ComparisonSettings,
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
        self._rows = [_Cells(MOST_TRACED // (len(contenders) + bool(human))) for _ in contenders]
        self._human_row = _Cells(MOST_TRACED // (len(contenders) + 1))

    def __len__(self) -> int:
        """The number of cells."""
        return len(self._human) + len(self.contenders) * len(self.prompts)

    def __iter__(self) -> Iterator[Cell]:
        reader = HumanTexts(self.model, self.prompts, self.settings.max_new_tokens)
        for index, text in enumerate(self._human):
            yield self._add(self._human_row, reader.prompt_of(text), partial(self._read, reader, index, text))
        network = share_prefill(self.model.network, self.settings.max_new_tokens)
        model = replace(self.model, network=network)
        order = sorted(range(len(self.contenders)), key=lambda row: prefill_order(self.contenders[row].strategy))
        for prompt in range(len(self.prompts)):
            for row in order:
                yield self._add(self._rows[row], prompt, partial(self._run, model, row, prompt))

    def stop(self, reason: str) -> None:
        """Give every cell that was not run this error."""
        for row in self._rows:
            row.cells += [Cell(prompt, error=reason) for prompt in range(len(row.cells), len(self.prompts))]
        self._human_row.cells += [Cell(None, error=reason) for _ in self._human[len(self._human_row.cells) :]]

    @property
    def has_samples(self) -> bool:
        """Whether any strategy has a sample."""
        return any(row.has_samples for row in self._rows)

    @property
    def result(self) -> StrategyComparison:
        """The comparison, when all cells were run. Raise the first error if no strategy has a sample."""
        if not self.has_samples:
            raise self._errors[0]
        human = measure_all(self._human_row.cells, self.settings.seed) if self._human else None
        rows = [self._row(*each, human) for each in zip(self.contenders, self._rows, strict=True)]
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

    def _row(self, contender: Contender, row: _Cells, human: Metrics | None) -> StrategyRow:
        metrics = measure_all(row.cells, self.settings.seed)
        apart = None if human is None else distances(metrics, human)
        strategy = contender.strategy
        return StrategyRow(strategy.name, strategy.spec, dict(contender.swept), tuple(row.cells), metrics, apart)

    def _add(self, row: _Cells, prompt: int | None, run: Callable[[], Cell]) -> Cell:
        """Run and judge a cell, and add it to its row. Return it."""
        try:
            cell = self._judged(run())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._errors.append(ModelError(OUT_OF_MEMORY, hint=NEEDS_LESS))
            cell = Cell(prompt, error=OUT_OF_MEMORY)
        kept = row.add(cell)
        self.done += 1
        return kept

    def _run(self, model: Model, row: int, prompt: int) -> Cell:
        strategy, limits, seed = self.contenders[row].strategy, self._limits[row], self.settings.seed
        try:
            result = result_of(continue_prompt(model, self.prompts[prompt], strategy, limits, seed, trace=True))
        except (InputError, ModelError) as error:
            self._errors.append(error)
            return Cell(prompt, error=str(error))
        samples = tuple(_sample(prompt, completion) for completion in result.completions)
        return Cell(prompt, samples, result.timing.decode_s)

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
        judgements = self._judging.judge([prompt] * len(cell.samples), [sample.text for sample in cell.samples])
        pairs = zip(cell.samples, judgements, strict=True)
        return replace(cell, samples=tuple(replace(sample, judgement=each) for sample, each in pairs))


class _Cells:
    """The cells of a row so far. The first `most_traced` tokens keep their trace."""

    def __init__(self, most_traced: int) -> None:
        self.cells: list[Cell] = []
        self._room = most_traced

    @property
    def has_samples(self) -> bool:
        """Whether any cell has a sample."""
        return any(cell.samples for cell in self.cells)

    def add(self, cell: Cell) -> Cell:
        """Add a cell. Return it, without the traces that there is no room for."""
        kept = replace(cell, samples=tuple(self._limited(sample) for sample in cell.samples))
        self.cells.append(kept)
        return kept

    def _limited(self, sample: Sample) -> Sample:
        if len(sample.token_ids) > self._room:
            self._room = 0
            return replace(sample, trace=None)
        self._room -= len(sample.token_ids)
        return sample


def _sample(prompt: int, completion: Completion) -> Sample:
    trace = completion.trace or ()
    return Sample(
        prompt,
        completion.index,
        completion.text,
        completion.token_ids,
        completion.finish_reason,
        tuple(token.logprob for token in trace),
        tuple(token.entropy for token in trace),
        trace=trace,
    )
