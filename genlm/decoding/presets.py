"""Named strategies in a TOML file: a table for each, with its kind under `kind` and its fields beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlm.decoding.declaration import Given
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Preset:
    """A strategy as a file gives it: its kind, and some of its fields."""

    name: str
    kind: str
    fields: Mapping[str, Given]

    @property
    def strategy(self) -> Strategy:
        """The strategy. Raise UsageError if a field is wrong."""
        return Strategy.of(self.kind, self.fields, name=self.name)


def read_presets(path: Path) -> dict[str, Preset]:
    """Return the presets of a file by name, all of them valid.

    Raises:
        InputError: a file that cannot be read or is not TOML, or a preset that is not a valid strategy.
    """
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read presets {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    return {name: _preset(path, name, table) for name, table in tables.items()}


def _preset(path: Path, name: str, table: Any) -> Preset:
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise InputError(f"{path}: preset {name!r} needs a table with a kind", hint=f'[{name}]\nkind = "top-p"')
    preset = Preset(name, table["kind"], {key: value for key, value in table.items() if key != "kind"})
    try:
        _ = preset.strategy
    except UsageError as error:
        raise InputError(f"{path}: preset {name!r}: {error}", hint=error.hint) from error
    return preset
