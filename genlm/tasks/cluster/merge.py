"""One file of the parts, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from genlm.errors import InputError
from genlm.formats.folder import LocalFolder, RemoteFolder, open_folder
from genlm.formats.output import replacing
from genlm.formats.tables import Record
from genlm.tasks.batch.run import TABLES, journal_path
from genlm.tasks.cluster.manifest import Manifest, read_manifest
from genlm.tasks.cluster.plan import part_name


def merge_parts(place: str, output: Path) -> Manifest:
    """Write all records of the parts in a folder to one file. Returns what the folder says of them.

    Raises:
        InputError: a folder without parts, or in which some rows have no record yet.
        UsageError: a file of no format that there is.
        OutputError: a file that cannot be written; what was there before stays.
    """
    journal_path(output)
    folder = open_folder(place)
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{place} holds no parts of genlm batch")
    write = TABLES.get(output.suffix.lower())
    with replacing(output) as stream:
        if write is None:
            stream.writelines(_lines(folder, manifest))
        else:
            write(lambda: _records(folder, manifest), stream)
    return manifest


def _records(folder: LocalFolder | RemoteFolder, manifest: Manifest) -> Iterable[Record]:
    return map(json.loads, _lines(folder, manifest))


def _lines(folder: LocalFolder | RemoteFolder, manifest: Manifest) -> Iterator[bytes]:
    """Every record, in the order of the input."""
    for file, rows in enumerate(manifest.rows):
        for number in range(manifest.parts(file)):
            expected = min(manifest.rows_per_part, rows - number * manifest.rows_per_part)
            yield from _part(folder, part_name(file, number), expected)


def _part(folder: LocalFolder | RemoteFolder, name: str, expected: int) -> Iterator[bytes]:
    try:
        with folder.open(name) as stream:
            lines = stream.read().splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    whole = sum(line.endswith(b"\n") for line in lines)
    if whole != expected or len(lines) != expected:
        raise InputError(
            f"{folder.place} is not finished: {name} has {whole:,} of {expected:,} records",
            hint="the same command with --resume makes those that are missing",
        )
    yield from lines
