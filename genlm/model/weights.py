"""Weights from a folder: safetensors, mapped and not read; pickled files only where that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


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


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index}: not a weight index: {error}") from error
    files = [index.parent / name for name in names]
    for file in files:
        # A name with folders in it would lead out of the model's own.
        if file.parent != index.parent or not file.is_file():
            raise ModelError(f"{index} names {file.name!r}, which is not there")
    return files


def read_weights(
    files: list[Path], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """The weights named in `shapes`, with or without the prefix `transformer.`; others are left in the file.

    A weight that has the dtype already stays mapped on the CPU: it costs no memory of its own.

    Raises:
        ModelError: a damaged file, a weight that is missing, or one of another shape.
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
    missing = [name for name in shapes if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{files[0]}: the weights lack {missing[0]}{more}, which config.json asks for")
    return found


def _plain(name: str) -> str:
    return name.removeprefix("transformer.")


def _read_safetensors(file: Path, wanted: Mapping[str, object]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {_plain(name): opened.get_tensor(name) for name in opened.keys() if _plain(name) in wanted}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{file}: damaged or cut short: {error}", hint="copy or download the file again") from error
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _read_pickled(file: Path, wanted: Mapping[str, object]) -> dict[str, Tensor]:
    import pickle

    import torch

    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(f"{file}: not a checkpoint that can be loaded safely: {str(error).splitlines()[0]}") from error
    return {_plain(name): tensor for name, tensor in state.items() if _plain(name) in wanted}
