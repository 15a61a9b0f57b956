"""The model folder that training leaves: what transformers, and so everything else, can load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from genlm.errors import OutputError
from genlm.formats.folder import LOCK
from genlm.tasks.train.network import weights_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SavedType: TypeAlias = Literal["float32", "float16", "bfloat16"]


TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)


# The weights, and what the optimizer remembers of each: its mean and its square. While one checkpoint takes the place
# of another both are there, and so it is with the weights that are left.
CHECKPOINT_BYTES = 2 * 3 * 4
WEIGHT_BYTES = 2 * 4
CARD, CURVE = "README.md", "loss.png"
# What a run leaves, beside the files of its tokenizer.
LEFT = (
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("checkpoint.safetensors", "training.json", "log.jsonl", CURVE, CARD),
)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError where something is at `out` that may not be written over."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder")
    if not out.is_dir() or all(path.name.startswith(LOCK) for path in out.iterdir()):
        return
    if not (out / "training.json").is_file():
        raise OutputError(f"{out} already exists and holds no run of genlm train", hint="name another folder")
    if not overwrite:
        can_resume = (out / "checkpoint.safetensors").is_file()
        raise OutputError(
            f"{out} already exists and is not empty", code="output-exists" if can_resume else "output-not-resumable"
        )


def is_complete(out: Path) -> bool:
    """Whether a run that came to its end has left its card and curve, too."""
    return all((out / name).is_file() for name in (CARD, CURVE))


def check_room(out: Path, parameters: int) -> None:
    """Raise OutputError where the files of a run of so many parameters will not fit, or none may be written."""
    place = next((folder for folder in (out, *out.absolute().parents) if folder.is_dir()), None)
    if place is None:
        # As on Windows without a drive of that letter.
        raise OutputError(f"cannot write to {out}: no such drive")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {place}: permission denied")
    need, free = parameters * (CHECKPOINT_BYTES + WEIGHT_BYTES), shutil.disk_usage(place).free
    if need > free:
        raise OutputError(
            f"{out}: not enough disk space: the run needs {_size(need)}, and {_size(free)} are free",
            hint="a smaller model needs less",
        )


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e3:,.0f} kB"


def clear(out: Path) -> None:
    """Make `out`, and take away what an earlier run left there, and nothing else. Raises OutputError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in [*(out / name for name in (*LEFT, *TOKENIZER_FILES)), *out.glob("model-*-of-*.safetensors")]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}") from error


def save_tokenizer(tokenizer: Tokenizer, end: str, context: int, out: Path) -> None:
    """Write a fast tokenizer, whose texts end with `end`, as transformers loads it. Raises OutputError."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, model_max_length=context)
    with _filling(out) as new:
        fast.save_pretrained(new)


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the files of a model's tokenizer. Raises OutputError where that fails."""
    with _filling(out) as new:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, new / name)


def has_weights(out: Path) -> bool:
    """Whether a run has left weights there."""
    return any(out.glob("model*.safetensors"))


def load_saved(out: Path, device: str) -> Any:
    """The model that is in the folder, in float32."""
    import torch

    from genlm.model.adapter import load_transformers_model

    return load_transformers_model(out, device, torch.float32, allow_pickle=False)


def save_model(model: Any, dtype: SavedType, out: Path) -> None:
    """Write config and weights, the weights as `dtype`. Raises OutputError where that fails."""
    import torch

    from genlm.model.adapter import silence_transformers

    silence_transformers()
    weights = {name: value.to(getattr(torch, dtype)) for name, value in weights_of(model).items()}
    with _filling(out) as new:
        model.save_pretrained(new, state_dict=weights)
        _edit(new / "config.json", dtype=dtype, **_usual_names(model.config))


def _usual_names(config: Any) -> dict[str, str]:
    is_fused = getattr(config, "activation_function", None) == "gelu_pytorch_tanh"
    return {"activation_function": "gelu_new"} if is_fused else {}


def _edit(path: Path, **changes: Any) -> None:
    changed = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps(changed, indent=2) + "\n", "utf-8", newline="\n")


@contextmanager
def _filling(out: Path) -> Iterator[Path]:
    """A folder to write files to, which are moved to `out` one by one when all are whole."""
    from safetensors import SafetensorError

    new = out / ".new"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        for path in sorted(new.iterdir()):
            # Windows syncs only files that are open for writing.
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
            # safetensors makes files that nobody else may read.
            path.chmod(new.stat().st_mode & 0o666)
            path.replace(out / path.name)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write to {out}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
