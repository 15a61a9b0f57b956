"""What stands beside the parts: what they were made of and with, and how many rows there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from genlm.decoding.request import draw_seed
from genlm.errors import InputError, OutputError
from genlm.formats.folder import LocalFolder, RemoteFolder
from genlm.records.batch import BatchModel, BatchRecord
from genlm.tasks.batch.jobs import Settings

NAME = "manifest.json"
FORMAT = "genlm parts 1"
HINT = "the same settings continue it, and --overwrite begins anew"


@dataclass(frozen=True)
class Manifest:
    """`rows` counts those of each file, `made_with` is all that a completion depends on beside its row.

    `done` and `failed` count records; they are None until all rows have one.
    """

    files: tuple[str, ...]
    rows: tuple[int, ...]
    rows_per_part: int
    made_with: Mapping[str, Any] = field(default_factory=dict)
    done: int | None = None
    failed: int | None = None

    @property
    def total(self) -> int:
        """How many rows there are."""
        return sum(self.rows)

    def parts(self, file: int) -> int:
        """How many parts the rows of a file have."""
        return -(-self.rows[file] // self.rows_per_part)

    def write(self, folder: LocalFolder | RemoteFolder) -> None:
        """Write it to its folder. Raises OutputError where that fails."""
        folder.write(NAME, json.dumps({"format": FORMAT, **asdict(self)}, indent=2).encode() + b"\n")


def read_manifest(folder: LocalFolder | RemoteFolder) -> Manifest | None:
    """The manifest of a folder, or None where there is none.

    Raises:
        OutputError: one that cannot be read.
    """
    data = folder.read(NAME)
    if data is None:
        return None
    try:
        contents = json.loads(data)
        if contents.pop("format") != FORMAT:
            raise ValueError
        return Manifest(**{**contents, "files": tuple(contents["files"]), "rows": tuple(contents["rows"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{folder.place}/{NAME} is no manifest of genlm batch") from error


def made_by(model: BatchModel) -> dict[str, Any]:
    """What a completion depends on of its model, by name."""
    return {
        "model": model["name"],
        "revision": model["revision"],
        "model_fingerprint": model["fingerprint"],
        "dtype": model["dtype"],
    }


def made_with(settings: Settings, model: BatchModel) -> dict[str, Any]:
    """All that a completion depends on beside its row, by name; the dtype is None where it is not known yet."""
    limits = settings.limits
    return {
        **made_by(model),
        "strategy": settings.strategy.spec,
        "seed": settings.seed,
        "max_new_tokens": limits.max_new_tokens,
        "num_return_sequences": limits.num_return_sequences,
        "stop": list(limits.stop),
        "overflow": limits.overflow,
        "deterministic": settings.deterministic,
    }


def record_made_with(record: BatchRecord) -> dict[str, Any]:
    """The same of a record as it was written."""
    plain: dict[str, Any] = {
        name: record[name]
        for name in (
            "strategy",
            "seed",
            "max_new_tokens",
            "num_return_sequences",
            "stop",
            "overflow",
            "deterministic",
        )
    }
    return {**made_by(record["model"]), **plain}


def check_same(then: Mapping[str, Any], now: Mapping[str, Any], place: str, row: str = "") -> None:
    """Raise OutputError, with both values, where what was made was made with other settings than are asked for now."""
    for name, value in now.items():
        if then.get(name) != value and not (name == "dtype" and None in (value, then.get(name))):
            raise OutputError(
                f"{place} was made with {name} {_said(then.get(name))}, and now it is {_said(value)}{row}", hint=HINT
            )


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(repr, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settled(settings: Settings, manifest: Manifest | None, *, has_seed: bool) -> Settings:
    """The settings with a seed that was drawn, if none was given: the one of the parts that are there already."""
    if has_seed:
        return settings
    seed = draw_seed() if manifest is None else int(manifest.made_with["seed"])
    return replace(settings, seed=seed)


def check_files(manifest: Manifest, files: tuple[str, ...], rows: tuple[int, ...], place: str) -> None:
    """Raise InputError where rows that have a part are not there any more."""
    if manifest.files != files:
        raise InputError(
            f"{place} was made of {', '.join(manifest.files)}, and now it is {', '.join(files)}",
            hint="the same files in the same order continue it, and --overwrite begins anew",
        )
    for name, then, now in zip(files, manifest.rows, rows, strict=True):
        if now < then:
            raise InputError(
                f"{name} had {then:,} rows when {place} was begun, and now it has {now:,}",
                hint="rows may be added at its end; --overwrite begins anew",
            )
