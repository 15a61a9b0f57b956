"""Named strategies in a TOML file: a table for each, with its kind under `kind` and its fields beside it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlm.decoding.declaration import Given
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError, show

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE = 1 << 20
MOST_PARTS = 50
LONG_KEY = re.compile(
    rf"""(?:^|[\[{{,])[ \t]*(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MOST_PARTS}}}""", re.MULTILINE
)


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
        with path.open("rb") as file:
            contents = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot read presets {path}: {error.strerror}") from error
    if len(contents) > LARGEST_FILE:
        raise InputError(f"{path}: a file of presets has at most {LARGEST_FILE:,} bytes")
    return {name: _preset(path, name, table) for name, table in _parse(path, contents).items()}


def _parse(path: Path, contents: bytes) -> dict[str, Any]:
    try:
        text = contents.decode("utf-8")
        # The parser takes quadratic time for a key of many parts.
        if LONG_KEY.search(text):
            raise InputError(f"{path}: a key with more than {MOST_PARTS} parts")
        return tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: values are nested too deeply") from error
    # Python does not read integers of more than 4,300 digits.
    except ValueError as error:
        raise InputError(f"{path}: a number has too many digits") from error


def _preset(path: Path, name: str, table: Any) -> Preset:
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise InputError(f"{path}: preset {show(name)} needs a table with a kind", hint='[NAME]\nkind = "top-p"')
    preset = Preset(name, table["kind"], {key: value for key, value in table.items() if key != "kind"})
    try:
        _ = preset.strategy
    except UsageError as error:
        raise InputError(f"{path}: preset {show(name)}: {error}", hint=error.hint) from error
    return preset
