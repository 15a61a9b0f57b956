"""The state of a run in one file, from which it goes on as if it had never ended."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "checkpoint.safetensors"
# How the names of the tensors begin: those of the model and those of the optimizer.
WEIGHTS, MEMORY = "model/", "optimizer/"


@dataclass(frozen=True)
class Place:
    """How far a run is: steps done, tokens seen, seconds spent, where in which epoch, and what was best."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    at: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0


def save(folder: Path, place: Place, weights: dict[str, Tensor], memory: dict[str, Tensor]) -> None:
    """Write a checkpoint: the one before stays until this one is whole.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save_file

    tensors = {f"{WEIGHTS}{name}": value.detach().contiguous() for name, value in weights.items()}
    tensors |= {f"{MEMORY}{name}": value.contiguous() for name, value in memory.items()}
    replace_file(folder / NAME, lambda path: save_file(tensors, path, {"place": json.dumps(asdict(place))}))


def load(folder: Path) -> tuple[Place, dict[str, Tensor], dict[str, Tensor]]:
    """The place, the weights and the optimizer's memory of a checkpoint.

    Raises:
        InputError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as opened:
            place = Place(**json.loads(opened.metadata()["place"]))
            names = list(opened.keys())
            weights = {name: opened.get_tensor(name) for name in names if name.startswith(WEIGHTS)}
            # Copied, as the optimizer keeps them: Windows could not replace a file that is still mapped.
            memory = {name: opened.get_tensor(name).clone() for name in names if name.startswith(MEMORY)}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not of genlm train") from error
    return (
        place,
        {name.removeprefix(WEIGHTS): value for name, value in weights.items()},
        {name.removeprefix(MEMORY): value for name, value in memory.items()},
    )


def is_there(folder: Path) -> bool:
    """Whether a folder holds a checkpoint."""
    return (folder / NAME).is_file()


def remove(folder: Path) -> None:
    """Take the checkpoint away, if there is one."""
    (folder / NAME).unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make the file beside its place, and move it there once it is whole and on the disk.

    Raises:
        OutputError: it cannot be written; what was there before stays.
    """
    from safetensors import SafetensorError

    beside = path.with_name(f".{path.name}.new")
    try:
        write(beside)
        # Windows syncs only files that are open for writing.
        with beside.open("r+b") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
