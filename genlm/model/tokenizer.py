"""Prompt encoding: text to token ids and back, by the model's own tokenizer and the `tokenizers` library."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from genlm.errors import ModelError, first_line
from genlm.model.files import read_json

END_OF_TEXT = "<|endoftext|>"
# The files that a tokenizer's vocabulary lies in, by the names of transformers.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")


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


def names_hold_tokenizer(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names may hold a tokenizer."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in VOCABULARIES if "/" not in name)


def load_tokenizer(folder: Path, model_type: str | None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder.

    Raises:
        ModelError: a folder without tokenizer files, or with damaged ones.
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
    # `tokenizers` raises plain Exception for what it cannot read.
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
    """GPT-2's first file format, as on the Hub before `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    if not (folder / "merges.txt").is_file():
        raise ModelError(f"{folder} holds vocab.json, and no merges.txt")
    backend = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    # A special token that the vocabulary lacks would get an id beyond the model's.
    if backend.token_to_id(END_OF_TEXT) is not None:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def _from_transformers(folder: Path) -> Backend:
    """The fast tokenizer that transformers builds from other files, as SentencePiece's."""
    if not names_hold_tokenizer(path.name for path in folder.iterdir()):
        raise ModelError(
            f"{folder} holds no tokenizer",
            hint="it needs tokenizer.json, or vocab.json with merges.txt, beside the weights",
        )
    from transformers import AutoTokenizer

    from genlm.model.adapter import silence_transformers

    silence_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # transformers raises whatever it stumbles over.
    except Exception as error:
        raise ModelError(f"transformers cannot load the tokenizer of {folder}: {first_line(error)}") from error
    backend: Backend | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{folder}: its tokenizer ({type(tokenizer).__name__}) has no fast form")
    return backend
