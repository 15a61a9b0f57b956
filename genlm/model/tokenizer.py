"""Prompt encoding: text to token ids and back, by the model's own tokenizer and the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from genlm.errors import ModelError

END_OF_TEXT = "<|endoftext|>"


class Backend(Protocol):
    """The part of `tokenizers.Tokenizer` that genlm calls."""

    def encode(self, sequence: str) -> Any: ...  # noqa: D102
    def decode(self, ids: Sequence[int]) -> str: ...  # noqa: D102
    def token_to_id(self, token: str) -> int | None: ...  # noqa: D102


class Tokenizer:
    """Text to ids and ids to text, exactly: nothing is cleaned up, padded or cut."""

    def __init__(self, backend: Backend, specials: Sequence[str] = ()) -> None:
        self.backend = backend
        self.specials = tuple(specials)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with the special tokens that the tokenizer itself puts around it."""
        ids: list[int] = self.backend.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens have none."""
        return self.backend.decode(list(ids))

    def start_id(self) -> int | None:
        """The token that a text starts from: the tokenizer's BOS, else its end of text."""
        ids = (self.backend.token_to_id(token) for token in (*self.specials, END_OF_TEXT))
        return next((token_id for token_id in ids if token_id is not None), None)


def load_tokenizer(folder: Path, model_type: str | None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder.

    Raises:
        ModelError: a folder without tokenizer files, or with damaged ones.
    """
    settings = _read_settings(folder)
    specials = [_token(settings[key]) for key in ("bos_token", "eos_token") if settings.get(key)]
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer(_from_json(folder / "tokenizer.json"), specials)
        if model_type == "gpt2" and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return Tokenizer(_from_gpt2_files(folder, settings), specials)
    # `tokenizers` raises plain Exception for what it cannot read.
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer files are damaged: {error}") from error
    return Tokenizer(_from_transformers(folder), specials)


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: not a JSON object")
    return settings


def _token(setting: Any) -> str:
    return str(setting["content"]) if isinstance(setting, dict) else str(setting)


def _from_json(path: Path) -> Backend:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _from_gpt2_files(folder: Path, settings: dict[str, Any]) -> Backend:
    """GPT-2's first file format, as on the Hub before `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    # A special token that the vocabulary lacks would get an id beyond the model's.
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


TOKENIZER_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
)


def _from_transformers(folder: Path) -> Backend:
    """The fast tokenizer that transformers builds from other files, as SentencePiece's."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{folder} holds no tokenizer",
            hint="it needs tokenizer.json, or vocab.json with merges.txt, beside the weights",
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelError(f"transformers cannot load the tokenizer of {folder}: {error}") from error
    backend: Backend | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: its tokenizer ({type(tokenizer).__name__}) has no fast form")
    return backend
