"""The files of a model folder: JSON and weights."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

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
            files = [folder / name for name in shard_names(folder / index)]
            for file in files:
                if not file.is_file():
                    raise ModelError(f"{folder / index} names {file.name!r}, which does not exist")
            return files
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


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight in a file, by name. Raise as `read_tensors` does."""
    if file.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in read_tensors(file).items()}
    with _open_safetensors(file) as opened:
        names = opened.keys()
        return {name: tuple(opened.get_slice(name).get_shape()) for name in names}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return every weight in a file by name, memory-mapped if the format allows it.

    Of a pickled file only tensors and plain containers are read; anything else is an error and never runs.

    Raises:
        ModelError: the file is damaged, cannot be read, or holds anything but weights.
    """
    if file.suffix != ".safetensors":
        return _read_pickled(file)
    with _open_safetensors(file) as opened:
        names = opened.keys()
        return {name: opened.get_tensor(name) for name in names}


@contextmanager
def _open_safetensors(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ModelError(f"{file}: damaged or incomplete: {error}", hint="copy or download the file again") from error
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _read_pickled(file: Path) -> dict[str, Tensor]:
    import pickle

    import torch

    try:
        # Files from before torch 1.6, such as the first GPT-2 checkpoints, cannot be memory-mapped.
        state = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file}: damaged, or contains more than weights, which genlm does not load") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"{file}: damaged or incomplete", hint="copy or download the file again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ModelError(f"{file}: not a file of named weights")
    return {str(name): tensor for name, tensor in state.items()}
