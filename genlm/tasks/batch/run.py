"""A batch from its files to its output: what there is, what of it is done, and what is left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, OutputError, UsageError
from genlm.formats.journal import Journal
from genlm.formats.output import replacing
from genlm.formats.rows import InputFile
from genlm.formats.tables import Record, write_csv, write_parquet
from genlm.records.batch import BatchCounts, BatchModel, BatchRecord
from genlm.tasks.batch.jobs import Fields, Job, Settings, read_jobs
from genlm.tasks.batch.ledger import Entry, Ledger, Written

TABLES: dict[str, Callable[[Callable[[], Iterable[Record]], BinaryIO], None]] = {
    ".csv": write_csv,
    ".parquet": write_parquet,
}
LINES = (".jsonl", ".ndjson")
# How every record begins.
BEGINNING = b'{"id": '


@dataclass(frozen=True)
class Making:
    """What a record was made with, beside its seed and length."""

    strategy: str
    model: str
    revision: str | None
    model_fingerprint: str | None
    dtype: str | None
    num_return_sequences: int
    stop: tuple[str, ...]
    overflow: str
    deterministic: bool

    @classmethod
    def of(cls, settings: Settings, model: BatchModel) -> Making:
        """That of a record to come."""
        limits = settings.limits
        return cls(
            settings.strategy.spec,
            model["name"],
            model["revision"],
            model["fingerprint"],
            model["dtype"],
            limits.num_return_sequences,
            limits.stop,
            limits.overflow,
            settings.deterministic,
        )

    @classmethod
    def read(cls, record: BatchRecord) -> Making:
        """That of a record as it was written."""
        model = record["model"]
        return cls(
            record["strategy"],
            model["name"],
            model["revision"],
            model["fingerprint"],
            model["dtype"],
            record["num_return_sequences"],
            tuple(record["stop"]),
            record["overflow"],
            record["deterministic"],
        )


class Batch:
    """The rows of files, and their records in a journal.

    `output` is what the user calls the result. Where it `begins_anew` the journal's records do not count; `retries`
    means that rows which have failed are left to be done again.

    Raises:
        InputError: two rows with one id, a file that cannot be read, or a bad row where it `is_strict`.
        OutputError: an output that is no batch's, has rows that the input lacks, or was made with other settings.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        fields: Fields,
        settings: Settings,
        journal: Journal,
        ledger: Ledger,
        output: Path,
        *,
        model: BatchModel,
        has_seed: bool = True,
        begins_anew: bool = False,
        retries: bool = False,
        is_strict: bool = False,
    ) -> None:
        self.files = files
        self.fields = fields
        self.settings = settings
        self.journal = journal
        self.ledger = ledger
        self.output = output
        self.retries = retries
        self.is_strict = is_strict
        self.begins_anew = begins_anew
        self._makings: dict[Making, int] = {}
        self._strategies: dict[Strategy, int] = {}
        ledger.fill(self._entries())
        self._check_ids()
        if not begins_anew:
            self._read_journal()
            journal.repair()
            if not has_seed:
                self._take_seed()
            self.check_model(model)

    @property
    def counts(self) -> BatchCounts:
        """How many rows there are, and what became of them."""
        return self.ledger.counts()

    @property
    def has_left(self) -> bool:
        """Whether anything is left to be done."""
        counts = self.counts
        return counts.done < counts.rows or (self.retries and counts.failed > 0)

    def jobs(self) -> Iterator[Job]:
        """What is left to be done. What the journal held goes, where the batch begins anew."""
        if self.begins_anew:
            self.journal.cut(0)
        jobs = read_jobs(self.files, self.fields, self.settings)
        for job, is_left in zip(jobs, self.ledger.left(with_failed=self.retries), strict=True):
            if is_left:
                yield job

    def add(self, record: BatchRecord, line: str) -> None:
        """Keep a record, which is written as `line`. Raises OutputError where that fails."""
        place, size = self.journal.append(line)
        self.ledger.note([self._written(record, place, size)])

    def check_model(self, model: BatchModel) -> None:
        """Raise OutputError where the records were made with other settings; a dtype of None is not known yet."""
        expected = Making.of(self.settings, model)
        specs = {number: strategy.spec for strategy, number in self._strategies.items()}
        made = list(self._makings)
        for strategy, number, id in self.ledger.makings(with_failed=not self.retries):
            row = expected if strategy is None else replace(expected, strategy=specs[strategy])
            for each in fields(Making):
                then, now = getattr(made[number], each.name), getattr(row, each.name)
                if then != now and not (each.name == "dtype" and now is None):
                    raise self._changed(each.name, then, now, id)
        other = self.ledger.other(
            str(self.settings.seed), str(self.settings.limits.max_new_tokens), with_failed=not self.retries
        )
        if other is not None:
            id, seed, new_seed, length, new_length = other
            name, then, now = ("seed", seed, new_seed) if seed != new_seed else ("max_new_tokens", length, new_length)
            raise self._changed(name, then, now, id)

    def finish(self, *, in_order: bool) -> None:
        """Write the result: its records in the order of the input, or as they were finished.

        Raises:
            OutputError: where there is no room for it; the records stay as they are then.
        """
        write = TABLES.get(self.output.suffix.lower())
        if write is not None:
            with replacing(self.output) as stream:
                write(partial(self._records, in_order), stream)
            return
        self.journal.is_wanted = True
        if not self._is_tidy(in_order):
            self.journal.rewrite(self._lines(in_order))

    # The input.

    def _entries(self) -> Iterator[Entry]:
        plain = self.settings
        for position, job in enumerate(read_jobs(self.files, self.fields, self.settings)):
            if self.is_strict and job.error is not None:
                raise InputError(_where(job, job.error))
            own = job.settings
            yield Entry(
                position,
                str(job.id),
                None if own.strategy == plain.strategy else self._number(own.strategy),
                None if own.seed == plain.seed else str(own.seed),
                None if own.limits.max_new_tokens == plain.limits.max_new_tokens else str(own.limits.max_new_tokens),
            )

    def _number(self, strategy: Strategy) -> int:
        return self._strategies.setdefault(strategy, len(self._strategies))

    def _check_ids(self) -> None:
        found = self.ledger.duplicate()
        if found is None:
            return
        id, *positions = found
        jobs = enumerate(read_jobs(self.files, self.fields, self.settings))
        first, second = (_place(job) for at, job in jobs if at in positions)
        raise InputError(
            f"two rows have the id {id!r}: {first} and {second}",
            hint=f"each needs one of its own in {self.fields.id!r}",
        )

    # The output.

    def _read_journal(self) -> None:
        unknown = self.ledger.note(self._written_before())
        if unknown:
            raise OutputError(
                f"{self.output} holds {unknown} records of rows that the input does not have",
                hint="give the input that it was made from, or --overwrite to begin anew",
            )

    def _written_before(self) -> Iterator[Written]:
        end = self.journal.end_of_last_line()
        if not end:
            self._check_torn()
        for number, (place, line) in enumerate(self.journal.lines(), 1):
            try:
                yield self._written(json.loads(line.decode()), place, len(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                if place + len(line) == end and number > 1:
                    # What a loss of power may leave of the last record.
                    self.journal.cut(place)
                    return
                raise self._foreign(number) from error

    def _check_torn(self) -> None:
        """Raise OutputError where all that there is, a line without its end, cannot have begun as a record."""
        with self.journal.open() as stream:
            beginning = stream.read(len(BEGINNING))
        if beginning.strip(b"\0") and not BEGINNING.startswith(beginning):
            raise self._foreign(1)

    def _foreign(self, line: int) -> OutputError:
        return OutputError(
            f"{self.journal.path}, line {line}: not a record of genlm batch", hint="--overwrite begins anew"
        )

    def _written(self, record: BatchRecord, place: int, size: int) -> Written:
        made = self._makings.setdefault(Making.read(record), len(self._makings))
        return Written(
            place,
            size,
            record["error"] is not None,
            made,
            str(record["seed"]),
            str(record["max_new_tokens"]),
            str(record["id"]),
        )

    def _take_seed(self) -> None:
        """Go on with the seed of the records, where they agree on one."""
        seeds = self.ledger.seeds()
        if len(seeds) == 1:
            self.settings = replace(self.settings, seed=int(seeds[0]))

    def _changed(self, name: str, then: Any, now: Any, id: str) -> OutputError:
        return OutputError(
            f"{self.output} was made with {name} {_said(then)}, and now it is {_said(now)} (row {id!r})",
            hint="the same settings continue it, and --overwrite begins anew",
        )

    def _is_tidy(self, in_order: bool) -> bool:
        """Whether the journal is its records in that order already, each once."""
        end = 0
        for place, size in self.ledger.places(by_position=in_order):
            if place != end:
                return False
            end += size
        return end == self.journal.size

    def _lines(self, in_order: bool) -> Iterator[bytes]:
        with self.journal.open() as source:
            for place, size in self.ledger.places(by_position=in_order):
                source.seek(place)
                yield source.read(size)

    def _records(self, in_order: bool) -> Iterator[Record]:
        return map(json.loads, self._lines(in_order))


def journal_path(output: Path) -> Path:
    """Where the records of an output are collected: the output itself, or beside a table.

    Raises:
        UsageError: an output of no format that there is.
    """
    suffix = output.suffix.lower()
    if suffix in LINES:
        return output
    if suffix in TABLES:
        return output.with_name(output.name + ".jsonl")
    raise UsageError(f"{output}: the result is .jsonl, .csv or .parquet, not {suffix or 'without an extension'}")


def _where(job: Job, message: str) -> str:
    return f"{_place(job)}: {message}"


def _place(job: Job) -> str:
    return f"{job.source}, line {job.line}" if job.line is not None else f"{job.source}, row {job.row}"


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(repr, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
