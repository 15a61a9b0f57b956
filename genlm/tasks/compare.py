"""Compare strategies on the same prompts, and with human text, by metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from genlm.decoding.completion import Completion, Piece
from genlm.decoding.declaration import Plain
from genlm.decoding.dispatch import prefill_order, share_prefill
from genlm.decoding.kinds.standard import NUM_BEAMS
from genlm.decoding.strategy import Strategy
from genlm.errors import GenlmError, InputError, ModelError, UsageError
from genlm.model.memory import check_free, is_out_of_memory
from genlm.model.pieces import Pieces
from genlm.records.compare import METRICS, Cell, Judgement, Sample, StrategyComparison, StrategyRow
from genlm.records.generation import Generation, Overflow
from genlm.records.made_by import MadeBy
from genlm.tasks.generate import Limits, continue_prompt, encode_prompt, result_of
from genlm.tasks.metrics import distances, measure
from genlm.tasks.next import continuation_ids
from genlm.tasks.score import SlidingWindow, Window, score_windows

if TYPE_CHECKING:
    from genlm.model.load import Model

Event: TypeAlias = Piece | Completion | Generation

DEFAULT_STRATEGIES = ("greedy", "beam", "top-k", "top-p")
# This many tokens keep their trace, as many as a page shows, divided among the strategies: traces take most memory.
MOST_TRACED = 20_000
HUMAN = "reference"
# What each token takes in memory, as measured with tracemalloc on CPython 3.11: in the result, and with the trace that
# it has until its cell is complete.
TOKEN_BYTES, TRACED_BYTES = 110, 1300
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
        UsageError: a count that is less than 1, or an unknown metric.
    """

    max_new_tokens: int
    samples: int
    seed: int
    overflow: Overflow = "error"
    metrics: tuple[str, ...] = METRICS

    def __post_init__(self) -> None:
        unknown = next((name for name in self.metrics if name not in METRICS), None)
        if unknown is not None or not self.metrics:
            raise UsageError(f"no metric {unknown or ''!r}", hint=f"choose from {', '.join(METRICS)}")
        Limits(self.max_new_tokens, self.samples, (), self.overflow)

    def limits(self, strategy: Strategy) -> Limits:
        """Return the limits of a strategy: one completion per beam at most, and one of any other search."""
        beams = strategy.get(NUM_BEAMS)
        most = beams if beams is not None else self.samples if strategy.samples else 1
        return Limits(self.max_new_tokens, min(self.samples, most), (), self.overflow)


class Comparer:
    """A running comparison. Iterate to run it cell by cell; `result` is complete afterwards.

    Each human text is a cell, and so is each prompt under each strategy; human texts come first. A cell has an error if
    the model cannot take its text or memory runs out. Each prompt is prefilled once for all strategies, and all samples
    of a strategy are decoded together. `done` counts the finished cells. `on_progress` gets the name of the current row
    and the number of cells done, including a fraction for the current one.

    Raises:
        UsageError: no prompt or no strategy.
        ModelError: more completions than memory can hold.
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
        on_progress: Callable[[str, float], None] = lambda name, done: None,
    ) -> None:
        if not prompts or not contenders:
            raise UsageError("a comparison needs at least one prompt and one strategy")
        self.model = model
        self.prompts = tuple(prompts)
        self.contenders = tuple(contenders)
        self.settings = settings
        self._human = tuple(human)
        self._on_progress = on_progress
        self._limits = [settings.limits(contender.strategy) for contender in contenders]
        self._check_memory()
        self._judge = Judge(judge) if judge is not None else None
        self.done = 0
        self._errors: list[GenlmError] = []
        share = MOST_TRACED // (len(contenders) + bool(human))
        self._rows = [_Cells(share) for _ in contenders]
        self._human_row = _Cells(share)

    def __len__(self) -> int:
        """The number of cells."""
        return len(self._human) + len(self.contenders) * len(self.prompts)

    def __iter__(self) -> Iterator[Cell]:
        reader = HumanTexts(self.model, self.prompts, self.settings.max_new_tokens)
        for index, text in enumerate(self._human):
            self._on_progress(HUMAN, self.done)
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
        return any(cell.samples for row in self._rows for cell in row.cells)

    @property
    def result(self) -> StrategyComparison:
        """The comparison, when all cells were run. Raise the first error if no strategy has a sample."""
        if not self.has_samples:
            raise self._errors[0]
        human = self._human_row.cells if self._human else None
        measured = measure([row.cells for row in self._rows], human, self.settings.seed, self.settings.metrics)
        reference = measured.metrics[-1] if human is not None else None
        rows = [
            StrategyRow(
                contender.strategy.name,
                contender.strategy.spec,
                dict(contender.swept),
                tuple(row.cells),
                metrics,
                None if reference is None else distances(metrics, reference),
                best,
            )
            for contender, row, metrics, best in zip(
                self.contenders, self._rows, measured.metrics, measured.best, strict=False
            )
        ]
        if human is not None:
            rows.append(StrategyRow(HUMAN, None, {}, tuple(human), measured.metrics[-1]))
        return StrategyComparison(
            MadeBy.now(),
            self.model.info,
            None if self._judge is None else self._judge.model.info,
            self.settings.seed,
            self.settings.max_new_tokens,
            self.settings.samples,
            self.prompts,
            measured.amounts,
            tuple(rows),
        )

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
            events = continue_prompt(model, self.prompts[prompt], strategy, limits, seed, trace=True)
            result = result_of(self._watched(events, strategy.name, limits))
        except (InputError, ModelError) as error:
            self._errors.append(error)
            return Cell(prompt, error=str(error))
        samples = tuple(_sample(prompt, completion) for completion in result.completions)
        return Cell(prompt, samples, result.timing.decode_s)

    def _watched(self, events: Iterator[Event], name: str, limits: Limits) -> Iterator[Event]:
        """Yield the events of a cell and report the progress, counting each event as a token."""
        tokens = limits.num_return_sequences * limits.max_new_tokens
        self._on_progress(name, self.done)
        for number, event in enumerate(events, 1):
            self._on_progress(name, self.done + min(0.99, number / tokens))
            yield event

    def _check_memory(self) -> None:
        """Raise ModelError if the completions would not fit in memory."""
        context = self.model.network.context
        new = self.settings.max_new_tokens if context is None else min(self.settings.max_new_tokens, context)
        counts = [limits.num_return_sequences for limits in self._limits]
        completions = len(self.prompts) * sum(counts)
        check_free(
            f"a comparison of {completions:,} completions of up to {new:,} tokens",
            new * (completions * TOKEN_BYTES + max(counts, default=0) * TRACED_BYTES),
            "lower num_return_sequences or max_new_tokens, or use fewer prompts",
        )

    def _read(self, reader: HumanTexts, index: int, text: str) -> Cell:
        try:
            sample = reader.read(index, text)
        except InputError as error:
            return Cell(reader.prompt_of(text), error=str(error))
        return Cell(sample.prompt, (sample,))

    def _judged(self, cell: Cell) -> Cell:
        if self._judge is None or not cell.samples:
            return cell
        prompt = "" if cell.prompt is None else self.prompts[cell.prompt]
        judgements = self._judge.judge([prompt] * len(cell.samples), [sample.text for sample in cell.samples])
        pairs = zip(cell.samples, judgements, strict=True)
        return replace(cell, samples=tuple(replace(sample, judgement=each) for sample, each in pairs))


class _Cells:
    """The cells of a row so far. The first `most_traced` tokens keep their trace."""

    def __init__(self, most_traced: int) -> None:
        self.cells: list[Cell] = []
        self._room = most_traced

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


# Human texts, and judgements of completions.


class HumanTexts:
    """Reads human texts as completions of a model: from each, as many tokens as a completion may have."""

    def __init__(self, model: Model, prompts: Sequence[str], most: int) -> None:
        self._model = model
        self._prompts = prompts
        self._most = most
        self._pieces = Pieces(model.tokenizer)

    def prompt_of(self, text: str) -> int | None:
        """Return the longest prompt that the text continues, if any."""
        begun = [at for at, prompt in enumerate(self._prompts) if prompt and text.startswith(prompt) and text != prompt]
        return max(begun, key=lambda at: len(self._prompts[at]), default=None)

    def read(self, index: int, text: str) -> Sample:
        """Return a text as a sample, scored after its prompt, or else after a start token.

        Without either, its first token is not scored. Raise InputError if the model cannot take the text.
        """
        from genlm.decoding.trace import trace_text

        place = self.prompt_of(text)
        prompt = "" if place is None else self._prompts[place]
        text = text[len(prompt) :]
        ids = continuation_ids(self._model, prompt, text)
        if len(ids) > self._most:
            ids = ids[: self._most]
            text = self._pieces.join(ids)
        before = _context(self._model, prompt, self._most)
        unscored = 0 if before else 1
        trace = trace_text(self._model.network, before or ids[:1], ids[unscored:], self._pieces)
        return Sample(
            place,
            index,
            text,
            ids,
            None,
            (*[None] * unscored, *(token.logprob for token in trace)),
            (*[None] * unscored, *(token.entropy for token in trace)),
            trace=None if unscored else tuple(trace),
        )


class Judge:
    """A model that scores the texts of another model, each after its prompt, in its own tokens."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._sliding = SlidingWindow.over(model.network.context, None)

    def judge(self, prompts: Sequence[str], texts: Sequence[str]) -> list[Judgement | None]:
        """Return the judgement of each text; None if it is empty, or if the model's tokenizer cannot express it."""
        counts, windows_of = [], []
        for prompt, text in zip(prompts, texts, strict=True):
            windows, count = self._windows(prompt, text)
            counts.append(count)
            windows_of.append(windows)
        scores = iter(score_windows(self.model.network, [window for windows in windows_of for window in windows]))
        judged: list[Judgement | None] = []
        for windows, count in zip(windows_of, counts, strict=True):
            found = [next(scores) for _ in windows]
            logprobs = [number for each in found if each is not None for number in each.logprobs.tolist()]
            judged.append(Judgement(sum(logprobs[-count:]), count) if count else None)
        return judged

    def _windows(self, prompt: str, text: str) -> tuple[list[Window], int]:
        """Return the windows over a text after its prompt, and how many of the last scores belong to the text."""
        try:
            new = continuation_ids(self.model, prompt, text) if text else ()
            before = _context(self.model, prompt, None) if new else ()
        except InputError:
            new, before = (), ()
        count = len(new) if before else max(0, len(new) - 1)
        return list(self._sliding.windows([[*before, *new]])), count


def _context(model: Model, prompt: str, room: int | None) -> tuple[int, ...]:
    """Return the tokens before a text: those of its prompt, a start token, or none.

    Raise InputError if the context has no room for `room` more.
    """
    if not prompt and model.start_id is None:
        return ()
    if room is None:
        return tuple(model.tokenizer.encode(prompt)) if prompt else (model.start_id or 0,)
    return encode_prompt(model, prompt, room, "error")
