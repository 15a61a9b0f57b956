"""The files of a model folder: JSON and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genlm.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


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


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """The files that hold a folder's weights, safetensors before pickled ones.

    Raises:
        ModelError: there are none, only pickled ones without `allow_pickle`, or one named in the index is missing.
    """
    for single, index in [(SINGLE, INDEX), *([(PICKLED, PICKLED_INDEX)] if allow_pickle else [])]:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _shards(folder / index)
    if (folder / PICKLED).is_file() or (folder / PICKLED_INDEX).is_file():
        raise ModelError(
            f"{folder} holds only pickled weights ({PICKLED}), which can run code when they are loaded",
            hint="--allow-pickle loads them all the same, if you trust where they come from",
        )
    raise ModelError(f"{folder} holds no weights", hint=f"a model folder needs {SINGLE}")


def shard_names(index: Path) -> list[str]:
    """The names of the files that an index of weights lists, each of its own folder.

    Raises:
        ModelError: an index that cannot be read, or that names a file elsewhere.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{index}: not an index of weights, for it has no weight_map")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if (index.parent / name).parent != index.parent:
            raise ModelError(f"{index} names {name!r}, which is outside the model's folder")
    return names


def _shards(index: Path) -> list[Path]:
    files = [index.parent / name for name in shard_names(index)]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{index} names {file.name!r}, which is not there")
    return files
