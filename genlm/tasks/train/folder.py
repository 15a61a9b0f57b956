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
from genlm.model.thirdparty import silence_transformers
from genlm.tasks.corpus import END_OF_TEXT
from genlm.tasks.train.network import weights_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SavedType: TypeAlias = Literal["float32", "float16", "bfloat16"]


def save_tokenizer(tokenizer: Tokenizer, context: int, out: Path) -> None:
    """Write a fast tokenizer as transformers loads it. Raises OutputError where that fails."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=context
    )
    with _filling(out) as new:
        fast.save_pretrained(new)


def save_model(model: Any, dtype: SavedType, out: Path) -> None:
    """Write config and weights, the weights as `dtype`. Raises OutputError where that fails."""
    import torch

    silence_transformers()
    weights = {name: value.to(getattr(torch, dtype)) for name, value in weights_of(model).items()}
    with _filling(out) as new:
        model.save_pretrained(new, state_dict=weights)
        _edit(new / "config.json", dtype=dtype, **_usual_names(model.config))


def _usual_names(config: Any) -> dict[str, str]:
    is_fused = getattr(config, "activation_function", None) == "gelu_pytorch_tanh"
    return {"activation_function": "gelu_new"} if is_fused else {}


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")


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
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            path.replace(out / path.name)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write to {out}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
