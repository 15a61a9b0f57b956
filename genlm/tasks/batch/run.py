"""A batch on this machine, from its plan to its output: which rows there are, which are done, and what is left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, ModelError, OutputError
from genlm.formats.files import is_remote
from genlm.formats.journal import Journal
from genlm.formats.output import replacing
from genlm.formats.rows import InputFile
from genlm.model.fingerprint import fingerprinted
from genlm.model.info import DeviceChoice, DtypeChoice
from genlm.model.source import ModelFolder, find_model
from genlm.records.batch import BEGINNING, BatchCounts, BatchModel, BatchRecord, Provenance, looks_like_record
from genlm.records.made_by import Versions
from genlm.tasks.batch.jobs import BatchSettings, Columns, Job, read_jobs
from genlm.tasks.batch.ledger import InputEntry, Ledger, OutputEntry
from genlm.tasks.batch.tables import is_table, write_table

if TYPE_CHECKING:
    from genlm.model.load import Model

# After Ctrl-C, running prompts get this long to finish.
FINISH_WITHIN_S = 10.0
# The most damaged records, and the most changed rows, that messages name.
MOST_NOTICES = MOST_IDS = 10
DIGEST_BYTES = 8
# The ledger keeps the seed and length of each record. Most records have the same other settings.
shared_settings = attrgetter(*({each.name for each in fields(Provenance)} - {"seed", "max_new_tokens"}))


@dataclass(frozen=True)
class ModelChoice:
    """A model's folder and how to load it. A local folder is at the same path on every machine."""

    folder: ModelFolder
    device: DeviceChoice = "auto"
    dtype: DtypeChoice = "auto"
    allow_pickle: bool = False

    @property
    def known(self) -> BatchModel:
        """The model as records will name it; the dtype may be unknown before loading."""
        dtype = None if self.dtype == "auto" else self.dtype
        return BatchModel(self.folder.name, self.folder.revision, self.folder.fingerprint, dtype)

    def load(self) -> Model:
        """Load the model. Raise ModelError if that fails."""
        from genlm.model.load import load_model

        return load_model(self.folder, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle)

    def on_this_machine(self) -> ModelChoice:
        """Return the same model with its folder on this machine, after it was chosen on another one.

        Raises:
            ModelError: the folder does not exist here, or the model cannot be downloaded.
        """
        folder = self.folder
        if folder.source != "local":
            folder = find_model(folder.name, revision=folder.revision, allow_pickle=self.allow_pickle)
        elif not Path(folder.path).is_dir():
            raise ModelError(
                f"model {folder.name}: there is no folder {folder.path} on a machine of the cluster",
                hint="every machine needs it at the same path, as in a shared folder",
            )
        return replace(self, folder=fingerprinted(folder, allow_pickle=self.allow_pickle))


@dataclass(frozen=True)
class Plan:
    """A batch: its input files, its settings, and where the result goes.

    `output` is a file, or on a cluster a folder of part files. `has_seed` is false if the seed was drawn; a resumed
    run then takes the seed of the output. `batch_size` None means automatic.
    """

    files: tuple[InputFile, ...]
    columns: Columns
    settings: BatchSettings
    model: ModelChoice
    output: str
    has_seed: bool = True
    batch_size: int | None = None
    resume: bool = False
    overwrite: bool = False
    retry_errors: bool = False
    redo_changed: bool = False
    stop_on_error: bool = False
    csv_safe: bool = False

    @property
    def provenance(self) -> Provenance:
        """The provenance of rows without overrides; the dtype is None unless it was chosen."""
        return self.settings.provenance(self.model.known)

    def with_absolute_paths(self) -> Plan:
        """Return a plan that means the same on every machine and in every working directory."""
        files = tuple(
            replace(file, path=file.path.absolute()) if isinstance(file.path, Path) else file for file in self.files
        )
        folder = self.model.folder
        if folder.source == "local":
            folder = replace(folder, path=folder.path.absolute())
        output = self.output.rstrip("/") if is_remote(self.output) else str(Path(self.output).absolute())
        return replace(self, files=files, model=replace(self.model, folder=folder), output=output)


class BatchRun:
    """The rows of a plan's files, and their records in a journal.

    With `overwrite` the records in the journal do not count, and stay until the first new one is written.

    Raises:
        InputError: two rows with the same id, a file that cannot be read, or with `stop_on_error` a bad row.
        OutputError: an output that is not a batch's, has rows that the input lacks, or was made with other settings.
    """

    def __init__(self, plan: Plan, journal: Journal, ledger: Ledger) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.journal = journal
        self.ledger = ledger
        self.output = Path(plan.output)
        # By shared settings, the number that the ledger has for them, and a record with them.
        self._provenances: dict[Any, tuple[int, Provenance]] = {}
        self._strategies: dict[Strategy, int] = {}
        self._made_by: set[Versions] = set()
        self._damaged: list[int] = []
        ledger.fill(self._input_entries())
        self._check_ids()
        if not plan.overwrite:
            self._read_journal()
            journal.repair()
            seeds = [] if plan.has_seed else ledger.seeds()
            if len(seeds) == 1:
                self.settings = replace(self.settings, seed=int(seeds[0]))
            ledger.forget(failed=plan.retry_errors, changed=plan.redo_changed)
            count, ids = ledger.changed_prompts(MOST_IDS)
            if count:
                raise changed_prompts(plan.output, count, ids)
            self.check_model(plan.model.known)

    @property
    def counts(self) -> BatchCounts:
        """How many rows there are, how many have a record, and how many of those an error."""
        return self.ledger.counts()

    @property
    def has_left(self) -> bool:
        """Whether any row is left to do."""
        return self.counts.done < self.counts.rows

    def notices(self) -> list[str]:
        """Return what a user should know about the records that were there before: damage, and other versions."""
        path = self.journal.path
        found = [f"{path}, line {line}: ignored a damaged record; its row runs again" for line in self._damaged]
        if len(found) > MOST_NOTICES:
            found[MOST_NOTICES:] = [f"{path}: ignored {len(found) - MOST_NOTICES:,} more damaged records"]
        now = Versions.installed()
        others = sorted(map(str, self._made_by - {now}))
        found += [f"{path} has records made by {then}; this is {now}" for then in others]
        return found

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs that are left. With `overwrite`, empty the journal first."""
        if self.plan.overwrite:
            self.journal.cut(0)
        for job, is_left in zip(self._read_jobs(), self.ledger.left(), strict=True):
            if is_left:
                yield job

    def add(self, record: BatchRecord) -> None:
        """Write a record to the journal. Raise OutputError if that fails."""
        offset, size = self.journal.append(record.to_line())
        self.ledger.note([self._output_entry(record, offset, size)])

    def check_model(self, model: BatchModel) -> None:
        """Raise OutputError if records were made by another model or with other settings than the plan's.

        A dtype of None is not known yet, and matches any.
        """
        expected = self.settings.provenance(model)
        specs = {number: strategy.spec for strategy, number in self._strategies.items()}
        provenances = dict(self._provenances.values())
        for strategy, number, id in self.ledger.provenances():
            then = provenances[number]
            now = replace(expected, seed=then.seed, max_new_tokens=then.max_new_tokens)
            check_same(then, now if strategy is None else replace(now, strategy=specs[strategy]), self.plan.output, id)
        limits = self.settings.limits
        changed = self.ledger.changed(str(self.settings.seed), str(limits.max_new_tokens))
        if changed is not None:
            id, seed, new_seed, length, new_length = changed
            if seed != new_seed:
                raise _changed(self.plan.output, "seed", seed, new_seed, id)
            raise _changed(self.plan.output, "max_new_tokens", length, new_length, id)

    def finish(self, *, in_order: bool) -> None:
        """Write the output: the records in the order of the input, or as they were finished.

        Raises:
            OutputError: no space left; the records stay as they are.
        """
        if is_table(self.output):
            with replacing(self.output) as stream:
                write_table(self.output, partial(self._records, in_order), stream, safe=self.plan.csv_safe)
            if not self._damaged:
                return
        self.journal.is_wanted = True
        if not self._is_tidy(in_order):
            self.journal.rewrite(self._lines(in_order))

    # The input.

    def _read_jobs(self) -> Iterator[Job]:
        return read_jobs(self.plan.files, self.plan.columns, self.settings)

    def _input_entries(self) -> Iterator[InputEntry]:
        defaults = self.settings
        for position, job in enumerate(self._read_jobs()):
            if self.plan.stop_on_error and job.error is not None:
                raise InputError(str(job.row_error(job.error)))
            own, length = job.settings, job.settings.limits.max_new_tokens
            strategy = None
            if own.strategy != defaults.strategy:
                strategy = self._strategies.setdefault(own.strategy, len(self._strategies))
            yield InputEntry(
                position,
                str(job.id),
                strategy,
                None if own.seed == defaults.seed else str(own.seed),
                None if length == defaults.limits.max_new_tokens else str(length),
                None if job.prompt is None else digest_of(job.prompt),
            )

    def _check_ids(self) -> None:
        duplicate = self.ledger.duplicate()
        if duplicate is None:
            return
        id, *positions = duplicate
        first, second = (job.row_error("").place for at, job in enumerate(self._read_jobs()) if at in positions)
        raise same_id(id, first, second, self.plan.columns.id)

    # The output.

    def _read_journal(self) -> None:
        unknown = self.ledger.note(self._entries_of_journal())
        if unknown:
            raise OutputError(
                f"{self.output} holds {unknown} records of rows that the input does not have",
                hint="continue with the input that made it",
                code="output-not-resumable",
            )

    def _entries_of_journal(self) -> Iterator[OutputEntry]:
        if not self.journal.end_of_last_line():
            self._check_torn()
        is_batch = False
        for number, (offset, line) in enumerate(self.journal.lines(), 1):
            try:
                record = BatchRecord.from_line(line)
            except ValueError:
                is_batch = is_batch or looks_like_record(line)
                self._damaged.append(number)
                continue
            is_batch = True
            self._made_by.add(record.made_by)
            yield self._output_entry(record, offset, len(line))
        if self._damaged and not is_batch:
            raise self._not_a_record(self._damaged[0])

    def _check_torn(self) -> None:
        """Raise OutputError if the only line, which is incomplete, is not the start of a record."""
        with self.journal.open() as stream:
            beginning = stream.read(len(BEGINNING))
        if beginning.strip(b"\0") and not BEGINNING.startswith(beginning):
            raise self._not_a_record(1)

    def _not_a_record(self, line: int) -> OutputError:
        return OutputError(
            f"{self.journal.path}, line {line}: not a record of genlm batch", code="output-not-resumable"
        )

    def _output_entry(self, record: BatchRecord, offset: int, size: int) -> OutputEntry:
        number, _ = self._provenances.setdefault(shared_settings(record), (len(self._provenances), record))
        return OutputEntry(
            offset,
            size,
            record.error is not None,
            number,
            str(record.seed),
            str(record.max_new_tokens),
            None if record.prompt is None else digest_of(record.prompt),
            str(record.id),
        )

    def _is_tidy(self, in_order: bool) -> bool:
        """Return whether the journal already holds exactly these records in this order."""
        end = 0
        for offset, size in self.ledger.records(by_position=in_order):
            if offset != end:
                return False
            end += size
        return end == self.journal.size

    def _lines(self, in_order: bool) -> Iterator[bytes]:
        with self.journal.open() as source:
            for offset, size in self.ledger.records(by_position=in_order):
                source.seek(offset)
                yield source.read(size)

    def _records(self, in_order: bool) -> Iterator[BatchRecord]:
        for line in self._lines(in_order):
            try:
                yield BatchRecord.from_line(line)
            except ValueError as error:
                raise OutputError(f"{self.journal.path} was damaged during the run", code="resumable") from error


def journal_path(output: Path) -> Path:
    """Return where the records of an output are collected: in the output itself, or beside a table.

    Raises:
        UsageError: an output that is neither JSON lines nor a table.
    """
    return output.with_name(output.name + ".jsonl") if is_table(output) else output


def check_same(then: Provenance, now: Provenance, output: str, id: str | int | None = None) -> None:
    """Raise OutputError, naming both values, if records were made with other settings than those of this run.

    A dtype of None is not known yet, and matches any. `id` is that of the row, if only one is compared.
    """
    before, after = then.settings(), now.settings()
    for name, value in after.items():
        if before[name] != value and not (name == "dtype" and None in (value, before[name])):
            raise _changed(output, name, before[name], value, id)


def digest_of(text: str) -> bytes:
    """Return the digest of a text. Different texts almost never have the same one."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def changed_prompts(output: str, count: int, ids: Sequence[str]) -> OutputError:
    """Return the error for `count` rows whose prompts have changed since their records were made; `ids` are some."""
    one = "1 row has another prompt than its record"
    rows = one if count == 1 else f"{count:,} rows have other prompts than their records"
    more = f" and {count - len(ids):,} more" if count > len(ids) else ""
    return OutputError(
        f"{rows} in {output}: {', '.join(map(repr, ids))}{more}",
        hint="continue with the same prompts",
        code="prompts-changed",
    )


def same_id(id: str, first: str, second: str, column: str) -> InputError:
    """Return the error for two rows with the same id."""
    return InputError(f"two rows have the id {id!r}: {first} and {second}", hint=f"every {column!r} must be unique")


def _changed(output: str, name: str, then: Any, now: Any, id: str | int | None) -> OutputError:
    row = "" if id is None else f" (row {id!r})"
    return OutputError(
        f"{output} was made with {name} {_shown(then)}, and now it is {_shown(now)}{row}",
        hint="continue with the same settings",
        code="output-not-resumable",
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(repr, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
