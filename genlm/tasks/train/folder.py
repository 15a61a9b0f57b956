"""The folder of a run: a model that transformers and other tools can load, and the checkpoint during training.

Files are written in the subfolder `.new` and moved into place when they are complete. A run that is killed leaves no
other temporary files, and the next run deletes that subfolder after it has locked the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import InputError, OutputError
from genlm.formats.folder import LOCK, LocalFolder
from genlm.tasks.train.model import weights_of
from genlm.tasks.train.settings import SavedType

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

NEW = ".new"
JOB, LOG, CHECKPOINT = "training.json", "log.jsonl", "checkpoint.safetensors"
CARD, CURVE = "README.md", "loss.png"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)
# The other files that a run writes.
WRITTEN = (
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *(CHECKPOINT, JOB, LOG, CURVE, CARD),
)
# Per parameter: the float32 weight, its mean and square in the optimizer, and the saved weight. Twice, because an old
# file remains until the new one replaces it.
DISK_BYTES = 2 * (3 * 4 + 4)
# Prefixes of the names of tensors in a checkpoint.
WEIGHTS, OPTIMIZER = "model/", "optimizer/"


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError if `out` holds something that must not be overwritten."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder")
    if not out.is_dir() or all(path.name.startswith(LOCK) or path.name == NEW for path in out.iterdir()):
        return
    if not (out / JOB).is_file():
        raise OutputError(f"{out} already exists and holds no run of genlm train", hint="name another folder")
    if not overwrite:
        can_resume = (out / CHECKPOINT).is_file()
        raise OutputError(
            f"{out} already exists and is not empty", code="output-exists" if can_resume else "output-not-resumable"
        )


def check_space(out: Path, parameters: int) -> None:
    """Raise OutputError if the disk has no space for a run of this many parameters, or if it is not writable."""
    existing = next((folder for folder in (out, *out.absolute().parents) if folder.is_dir()), None)
    if existing is None:
        # For example on Windows, if there is no drive of that letter.
        raise OutputError(f"cannot write to {out}: no such drive")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {existing}: permission denied")
    need, free = parameters * DISK_BYTES, shutil.disk_usage(existing).free
    if need > free:
        raise OutputError(
            f"{out}: not enough disk space: the run needs {_size(need)}, and {_size(free)} are free",
            hint="a smaller model needs less",
        )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e3:,.0f} kB"


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder, and delete the temporary files of a run that was killed.

    Raises:
        OutputError: another run is writing to `out`, or `out` is not writable.
    """
    with LocalFolder(str(out)).locked():
        shutil.rmtree(out / NEW, ignore_errors=True)
        yield


def clear(out: Path) -> None:
    """Delete the files of an earlier run, and nothing else. Raise OutputError if that fails."""
    try:
        for path in [*(out / name for name in (*WRITTEN, *TOKENIZER_FILES)), *out.glob("model-*-of-*.safetensors")]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from error


@contextmanager
def replacing_files(out: Path, name: str = "") -> Iterator[Path]:
    """Yield an empty folder, and at the end move its files to `out`, each when it is on the disk.

    Raises:
        OutputError: a file cannot be written; the old one is still there. The error mentions `name`.
    """
    from safetensors import SafetensorError

    new = out / NEW
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        for path in sorted(new.iterdir()):
            # Windows syncs only files that are open for writing.
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
            # safetensors creates files that only their owner may read.
            path.chmod(new.stat().st_mode & 0o666)
            path.replace(out / path.name)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {out / name}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as indented JSON."""
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8", newline="\n")


def save_tokenizer(tokenizer: Tokenizer, end: str, context: int, out: Path) -> None:
    """Write a tokenizer, whose texts end with `end`, for transformers to load. Raise OutputError if that fails."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, model_max_length=context)
    with replacing_files(out) as new:
        fast.save_pretrained(new)


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the files of a model's tokenizer. Raise OutputError if that fails."""
    with replacing_files(out) as new:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, new / name)


def save_model(model: Any, dtype: SavedType, out: Path) -> None:
    """Write the config and the weights, converted to `dtype`. Raise OutputError if that fails."""
    import torch

    from genlm.model.adapter import silence_transformers

    silence_transformers()
    weights = {name: value.to(getattr(torch, dtype)) for name, value in weights_of(model).items()}
    with replacing_files(out) as new:
        model.save_pretrained(new, state_dict=weights)
        config = json.loads((new / "config.json").read_bytes()) | {"dtype": dtype}
        if config.get("activation_function") == "gelu_pytorch_tanh":
            config["activation_function"] = "gelu_new"
        write_json(new / "config.json", config)


@dataclass(frozen=True)
class TrainState:
    """The state of a run.

    `epoch` and `at` are its position in the texts; `worse` counts the evaluations in a row without improvement.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    at: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0


def save_checkpoint(out: Path, state: TrainState, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
    """Write a checkpoint. The previous one remains until this one is complete. Raise OutputError if that fails."""
    from safetensors.torch import save_file

    tensors = {f"{WEIGHTS}{name}": value.detach().contiguous() for name, value in weights.items()}
    tensors |= {f"{OPTIMIZER}{name}": value.contiguous() for name, value in optimizer.items()}
    with replacing_files(out, CHECKPOINT) as new:
        save_file(tensors, new / CHECKPOINT, {"place": json.dumps(asdict(state))})


def load_checkpoint(out: Path) -> tuple[TrainState, dict[str, Tensor], dict[str, Tensor]]:
    """Return the state, the weights and the optimizer's state of the checkpoint. Raise InputError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    path = out / CHECKPOINT
    try:
        with safe_open(path, framework="pt") as opened:
            state = TrainState(**json.loads(opened.metadata()["place"]))
            # Copied, because the optimizer keeps them, and Windows cannot replace a file that is still mapped.
            weights, optimizer = (
                {
                    name.removeprefix(prefix): opened.get_tensor(name).clone()
                    for name in opened.keys()  # noqa: SIM118
                    if name.startswith(prefix)
                }
                for prefix in (WEIGHTS, OPTIMIZER)
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not of genlm train") from error
    return state, weights, optimizer
