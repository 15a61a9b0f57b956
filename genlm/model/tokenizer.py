"""Text to token ids and back, with the model's own tokenizer and the `tokenizers` library."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from genlm.errors import ModelError, first_line
from genlm.model.files import read_json

END_OF_TEXT = "<|endoftext|>"
# The files that may hold a vocabulary, as transformers names them.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")


class Backend(Protocol):
    """The part of `tokenizers.Tokenizer` that genlm uses."""

    def encode(self, sequence: str) -> Any: ...  # noqa: D102
    def decode(self, ids: Sequence[int]) -> str: ...  # noqa: D102
    def token_to_id(self, token: str) -> int | None: ...  # noqa: D102


class Tokenizer:
    """Converts text to ids and back exactly: nothing is cleaned up, padded or truncated."""

    def __init__(self, backend: Backend, specials: Sequence[str] = ()) -> None:
        self.backend = backend
        self.specials = tuple(specials)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with the special tokens that the tokenizer adds around it."""
        ids: list[int] = self.backend.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self.backend.decode(list(ids))

    def start_id(self) -> int | None:
        """Return the id that a text starts from: the tokenizer's BOS, else its end of text, else None."""
        ids = (self.backend.token_to_id(token) for token in (*self.specials, END_OF_TEXT))
        return next((token_id for token_id in ids if token_id is not None), None)


def names_hold_tokenizer(names: Iterable[str]) -> bool:
    """Return whether a folder with files of these names can hold a tokenizer."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in VOCABULARIES if "/" not in name)


def load_tokenizer(folder: Path, model_type: str | None) -> Tokenizer:
    """Return the tokenizer of a model folder.

    Raises:
        ModelError: the tokenizer files are missing or damaged.
    """
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    specials = [_token(settings[key]) for key in ("bos_token", "eos_token") if settings.get(key)]
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer(_from_json(folder / "tokenizer.json"), specials)
        if model_type == "gpt2" and (folder / "vocab.json").is_file():
            return Tokenizer(_from_gpt2_files(folder, settings), specials)
    except ModelError:
        raise
    # `tokenizers` raises plain Exception for files that it cannot read.
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer files are damaged: {first_line(error)}") from error
    return Tokenizer(_from_transformers(folder), specials)


def _token(setting: Any) -> str:
    return str(setting.get("content")) if isinstance(setting, dict) else str(setting)


def _from_json(path: Path) -> Backend:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _from_gpt2_files(folder: Path, settings: dict[str, Any]) -> Backend:
    """Build the tokenizer of GPT-2's first file format, from before `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if not (folder / "merges.txt").is_file():
        raise ModelError(f"{folder} has vocab.json but no merges.txt")
    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    # A special token that is not in the vocabulary would get an id that the model does not have.
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def _from_transformers(folder: Path) -> Backend:
    """Let transformers build a fast tokenizer from other files, such as SentencePiece's."""
    if not names_hold_tokenizer(path.name for path in folder.iterdir()):
        raise ModelError(
            f"no tokenizer in {folder}",
            hint="a model folder needs tokenizer.json, or vocab.json with merges.txt",
        )
    from transformers import AutoTokenizer

    from genlm.model.adapter import silence_transformers

    silence_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # transformers raises all kinds of errors for files that it cannot load.
    except Exception as error:
        raise ModelError(f"transformers cannot load the tokenizer of {folder}: {first_line(error)}") from error
    backend: Backend | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: its tokenizer ({type(tokenizer).__name__}) has no fast version")
    return backend
