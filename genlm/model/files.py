"""The JSON files of a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genlm.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """The contents of a JSON object. Raises ModelError where the file is missing or holds none."""
    try:
        contents = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        hint = f"a model folder holds {path.name}, the weights and the tokenizer"
        raise ModelError(f"{path.parent} holds no {path.name}", hint=hint) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ModelError(f"{path}: not a JSON object")
    return contents
