"""The files of a model folder: JSON and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genlm.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON object.

    Raises:
        ModelError: the file is missing, unreadable, or not a JSON object.
    """
    try:
        contents = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        hint = f"a model folder contains {path.name}, weights and a tokenizer"
        raise ModelError(f"no {path.name} in {path.parent}", hint=hint) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ModelError(f"{path}: not a JSON object")
    return contents


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """Return the files with a folder's weights, preferring safetensors to pickled ones.

    Raises:
        ModelError: there are none, only pickled ones without `allow_pickle`, or the index names a missing file.
    """
    for single, index in [(SINGLE, INDEX), *([(PICKLED, PICKLED_INDEX)] if allow_pickle else [])]:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _shards(folder / index)
    if (folder / PICKLED).is_file() or (folder / PICKLED_INDEX).is_file():
        raise pickled_weights(str(folder), PICKLED)
    raise ModelError(f"no weights in {folder}", hint=f"a model folder needs {SINGLE}")


def pickled_weights(where: str, name: str) -> ModelError:
    """Return the error for a model that has only pickled weights."""
    return ModelError(
        f"{where} has only pickled weights ({name}), which can run code when they are loaded", code="pickled-weights"
    )


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index of weights lists.

    Raises:
        ModelError: the index cannot be read, or names a file outside its folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: not an index of weights: it has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if (index.parent / name).parent != index.parent:
            raise ModelError(f"{index} names {name!r}, which is outside the model folder")
    return names


def _shards(index: Path) -> list[Path]:
    files = [index.parent / name for name in shard_names(index)]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{index} names {file.name!r}, which does not exist")
    return files
