"""The manifest beside the parts: what made them, from which files, and how many rows there are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from genlm.decoding.request import draw_seed
from genlm.errors import InputError, OutputError
from genlm.formats.folder import LocalFolder, RemoteFolder
from genlm.records.batch import Provenance
from genlm.records.made_by import Versions
from genlm.records.serialize import from_builtins, to_builtins
from genlm.tasks.batch.jobs import BatchSettings
from genlm.tasks.batch.plan import Plan
from genlm.tasks.batch.run import check_same

NAME = "manifest.json"
FORMAT = "genlm parts 1"
# Beside the parts, the folder of records whose part is not complete.
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Manifest:
    """`rows` are those of each file; `made_with` is the provenance of rows without overrides.

    `made_by` are the versions of the last run. `done` and `failed` count records, and are None until all rows have one.
    """

    files: tuple[str, ...]
    rows: tuple[int, ...]
    rows_per_part: int
    made_with: Provenance
    made_by: Versions
    done: int | None = None
    failed: int | None = None

    @property
    def total(self) -> int:
        """How many rows there are."""
        return sum(self.rows)

    def parts(self, file: int) -> int:
        """Return how many parts the rows of a file fill."""
        return -(-self.rows[file] // self.rows_per_part)

    def write(self, folder: LocalFolder | RemoteFolder) -> None:
        """Write the manifest to its folder. Raise OutputError if that fails."""
        values = {"format": FORMAT, **to_builtins(vars(self) | {"made_with": self.made_with.settings()})}
        folder.write(NAME, json.dumps(values, indent=2).encode() + b"\n")


def read_manifest(folder: LocalFolder | RemoteFolder) -> Manifest | None:
    """Return the manifest of a folder, or None if there is none.

    Raises:
        OutputError: a file of that name that is not a manifest.
    """
    data = folder.read(NAME)
    if data is None:
        return None
    try:
        values = json.loads(data)
        if values.pop("format") != FORMAT:
            raise ValueError
        return from_builtins(Manifest, values | {"made_with": Provenance.from_settings(values["made_with"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{folder.place}/{NAME} is not a manifest of genlm batch") from error


def check_output(plan: Plan, folder: LocalFolder | RemoteFolder) -> Manifest | None:
    """Return the manifest of the parts to continue, or None to start over. Change nothing.

    Raises:
        OutputError: a folder that holds something else, or parts that are not to be continued, or that were made with
            other settings.
    """
    held = [name for name in folder.names() if not name.startswith(".")]
    manifest = read_manifest(folder) if held and not plan.overwrite else None
    if held and manifest is None and not all(_is_output(name) for name in held):
        raise OutputError(f"{plan.output} holds files that are not parts of genlm batch: choose another folder")
    if held and manifest is None and not plan.overwrite:
        raise OutputError(f"{plan.output} holds parts without {NAME}", code="output-not-resumable")
    if manifest is None:
        return None
    if not plan.resume:
        raise OutputError(f"{plan.output} already exists", code="output-exists")
    settings = choose_seed(plan, manifest)
    check_same(manifest.made_with, settings.provenance(plan.model.known), plan.output)
    return manifest


def forget_parts(folder: LocalFolder | RemoteFolder) -> None:
    """Remove the manifest and all parts. The manifest goes first: without it the rest is ignored."""
    for name in (NAME, UNFINISHED, *(name for name in folder.names() if name.startswith("part-"))):
        folder.remove(name)


def choose_seed(plan: Plan, manifest: Manifest | None) -> BatchSettings:
    """Return the plan's settings; if no seed was given, with the manifest's seed or else a new one."""
    if plan.has_seed:
        return plan.settings
    return replace(plan.settings, seed=draw_seed() if manifest is None else manifest.made_with.seed)


def check_files(manifest: Manifest, files: tuple[str, ...], rows: tuple[int, ...], output: str) -> None:
    """Raise InputError if the input lacks rows that have a part."""
    if manifest.files != files:
        raise InputError(
            f"{output} was made from {', '.join(manifest.files)}, and now the input is {', '.join(files)}",
            hint="continue with the same files in the same order",
            code="output-not-resumable",
        )
    for name, then, now in zip(files, manifest.rows, rows, strict=True):
        if now < then:
            raise InputError(
                f"{name} had {then:,} rows when {output} was started, and now it has {now:,}",
                hint="rows may only be added at the end",
                code="output-not-resumable",
            )


def _is_output(name: str) -> bool:
    return name in (NAME, UNFINISHED) or name.startswith("part-")
