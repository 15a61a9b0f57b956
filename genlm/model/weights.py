"""Weights from a folder: safetensors, mapped and not read; pickled files only where that was asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import ModelError
from genlm.model.files import read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# Constants that old GPT-2 checkpoints hold beside the weights.
MASKS = (".attn.bias", ".attn.masked_bias")


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


def read_weights(
    files: list[Path],
    shapes: Mapping[str, tuple[int, ...]],
    optional: Collection[str],
    dtype: torch.dtype,
    device: str,
) -> dict[str, Tensor]:
    """GPT-2's weights as `shapes` names them, from files with or without the prefix `transformer.`.

    What is not a weight of `shapes`, as the masks in old checkpoints, is left in the file. A weight that has the
    dtype already stays mapped on the CPU: it costs no memory of its own.

    Raises:
        ModelError: a damaged file, a weight that is missing or of another shape, or more layers than in `shapes`.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        read = _read_safetensors if file.suffix == ".safetensors" else _read_pickled
        for name, tensor in read(file, shapes).items():
            if tuple(tensor.shape) != shapes[name]:
                raise ModelError(
                    f"{file}: {name} has shape {tuple(tensor.shape)}, where config.json asks for {shapes[name]}"
                )
            found[name] = tensor.to(device=device, dtype=dtype)
    missing = [name for name in shapes if name not in found and name not in optional]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{files[0]}: the weights lack {missing[0]}{more}, which config.json asks for")
    return found


def _wanted(names: Iterable[str], shapes: Mapping[str, object], file: Path) -> dict[str, str]:
    """Of the names in a file those to read, each with its name in `shapes`."""
    plain = {name: name.removeprefix("transformer.") for name in names}
    for name in plain.values():
        if name not in shapes and name.startswith("h.") and not name.endswith(MASKS):
            raise ModelError(f"{file} holds {name}, which config.json knows nothing of", hint="are both of one model?")
    return {name: short for name, short in plain.items() if short in shapes}


def _read_safetensors(file: Path, shapes: Mapping[str, object]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            wanted = _wanted(opened.keys(), shapes, file)
            return {short: opened.get_tensor(name) for name, short in wanted.items()}
    except SafetensorError as error:
        raise ModelError(f"{file}: damaged or cut short: {error}", hint="copy or download the file again") from error
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _read_pickled(file: Path, shapes: Mapping[str, object]) -> dict[str, Tensor]:
    """Only tensors and plain containers are unpickled; anything else in the file is an error, and never run."""
    import pickle

    import torch

    try:
        # The format before torch 1.6, as of the first GPT-2 checkpoints, cannot be mapped.
        state = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file}: damaged, or holds more than weights, which genlm does not load") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"{file}: damaged or cut short", hint="copy or download the file again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ModelError(f"{file}: not a file of named weights")
    return {short: state[name] for name, short in _wanted(state, shapes, file).items()}
