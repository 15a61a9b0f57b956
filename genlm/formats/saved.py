"""What genlm has written as one JSON object, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genlm.errors import InputError


def read_json(path: Path) -> Any:
    """What the JSON of a file says. Raises InputError for a file that cannot be read, or is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
