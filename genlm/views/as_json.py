"""Records as JSON that a terminal only shows and any parser reads."""

from __future__ import annotations

import json
import math
from typing import Any

from genlm.views.terminal import escaped


def as_object(record: Any) -> str:
    """One object over several lines, with a line break at its end."""
    return escaped(json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)) + "\n"


def as_line(record: Any) -> str:
    """One object on one line, without a line break."""
    return escaped(json.dumps(record, ensure_ascii=False, allow_nan=False))


def finite(number: float | None) -> float | None:
    """The number, or None for infinity, which JSON cannot say."""
    return number if number is not None and math.isfinite(number) else None


def split_bytes(split: bytes | None) -> dict[str, list[int]]:
    """The key `bytes` for a token that is not made of whole characters, else none."""
    return {} if split is None else {"bytes": list(split)}
