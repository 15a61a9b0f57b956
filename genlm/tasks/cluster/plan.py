"""What a cluster is to do, as plain data that travels to every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import ModelError
from genlm.formats.folder import LocalFolder, RemoteFolder, open_folder
from genlm.formats.rows import InputFile
from genlm.model.fingerprint import fingerprinted
from genlm.model.source import ModelFolder, find_model
from genlm.records.batch import BatchModel, BatchRecord
from genlm.tasks.batch.jobs import Fields, Job, Settings, names_of

if TYPE_CHECKING:
    from genlm.model.load import DeviceChoice, DtypeChoice, Model

# A part is a worker's task: so many to each worker that all end at about the same time, and each large enough that
# its last sequences, which have the machine to themselves, cost little.
PARTS_PER_WORKER = 4
SMALLEST_PART, LARGEST_PART = 16, 4096
# A worker runs several parts at once, two or more, so that there are rows to take the places of those that end, and
# prompts of like length to be encoded together.
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class ModelChoice:
    """A model that every worker loads for itself. A folder is where it is on each machine."""

    folder: ModelFolder
    device: DeviceChoice = "auto"
    dtype: DtypeChoice = "auto"
    allow_pickle: bool = False

    @property
    def known(self) -> BatchModel:
        """What is known of it before it is loaded."""
        dtype = None if self.dtype == "auto" else self.dtype
        return {
            "name": self.folder.name,
            "revision": self.folder.revision,
            "fingerprint": self.folder.fingerprint,
            "dtype": dtype,
        }

    def load(self) -> Model:
        """Load it on this machine. Raises ModelError where it is not there, or cannot be loaded."""
        from genlm.model.load import load_model

        return load_model(self._here(), device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle)

    def _here(self) -> ModelFolder:
        folder = self.folder
        if folder.source != "local":
            found = find_model(folder.name, revision=folder.revision, allow_pickle=self.allow_pickle)
            return fingerprinted(found, allow_pickle=self.allow_pickle)
        if not Path(folder.path).is_dir():
            raise ModelError(
                f"model {folder.name}: there is no folder {folder.path} on a machine of the cluster",
                hint="it must be at the same path on every one, as in a shared folder",
            )
        return fingerprinted(folder, allow_pickle=self.allow_pickle)


@dataclass(frozen=True)
class Resources:
    """How many workers there are to be, and what each takes; a fraction of a GPU is shared with others."""

    workers: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A batch: its files, what a prompt is, what it runs with, and the folder of its part files.

    `names` begin the ids of rows without one, a name for each file. `has_seed` is false where the seed was drawn,
    and gives way to one that is in the folder already. `as_line` writes a record.
    """

    files: tuple[InputFile, ...]
    names: tuple[str, ...]
    fields: Fields
    settings: Settings
    model: ModelChoice
    output: str
    resources: Resources
    as_line: Callable[[BatchRecord], str]
    has_seed: bool = True
    batch_size: int | None = None
    resumes: bool = False
    overwrites: bool = False
    retries: bool = False
    is_strict: bool = False

    @property
    def folder(self) -> LocalFolder | RemoteFolder:
        """Where the parts are written."""
        return open_folder(self.output)


@dataclass(frozen=True)
class Chunk:
    """The rows of one part."""

    part: str
    jobs: Sequence[Job]


def part_name(file: int, number: int) -> str:
    """Names sort as the input does."""
    return f"part-{file:05}-{number:07}.jsonl"


def rows_per_part(rows: int, workers: int) -> int:
    """How many rows a part has, of so many in all."""
    return min(max(-(-rows // (PARTS_PER_WORKER * workers)), SMALLEST_PART), LARGEST_PART)


def parts_at_once(size: int) -> int:
    """How many parts of `size` rows a worker makes at the same time."""
    return min(max(-(-ROWS_AT_ONCE // size), 2), PARTS_PER_WORKER)


def make_plan(
    files: Sequence[InputFile],
    fields: Fields,
    settings: Settings,
    model: ModelChoice,
    output: str,
    as_line: Callable[[BatchRecord], str],
    **choices: Any,
) -> Plan:
    """A plan that means the same on every machine, whatever the folder that it is run from.

    Raises ModelError for a model without weights.
    """
    found = fingerprinted(model.folder, allow_pickle=model.allow_pickle)
    here = replace(found, path=found.path.absolute()) if found.source == "local" else found
    places = [replace(file, path=file.path.absolute()) if isinstance(file.path, Path) else file for file in files]
    return Plan(
        tuple(places),
        tuple(names_of(files)),
        fields,
        settings,
        replace(model, folder=here),
        output,
        Resources(1, 1.0),
        as_line,
        **choices,
    )
