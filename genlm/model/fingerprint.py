"""Which weights a folder holds, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import chain
from pathlib import Path

from genlm.errors import ModelError
from genlm.model.files import weight_files
from genlm.model.source import ModelFolder
from genlm.model.tokenizer import VOCABULARIES

# What a text depends on beside the weights.
OTHERS = ("config.json", "generation_config.json", "tokenizer_config.json", "merges.txt", *VOCABULARIES)
LENGTH = 16
BLOCK = 1 << 20


def fingerprinted(folder: ModelFolder, *, allow_pickle: bool = False) -> ModelFolder:
    """The folder with its fingerprint, the first 16 hexadecimal digits of a SHA-256 of all that a text depends on.

    Every byte counts, for training may change only some of the weights: that takes about as long as reading them. The
    model of a commit on the Hub has none, for its revision says which it is.

    Raises:
        ModelError: a folder without weights, or a file that cannot be read.
    """
    if folder.source == "hub":
        return folder
    files = weight_files(folder.path, allow_pickle=allow_pickle)
    others = chain.from_iterable(sorted(folder.path.glob(pattern)) for pattern in OTHERS)
    digest = hashlib.sha256()
    for file in (*files, *others):
        digest.update(f"{file.name} {_digest(file)}\n".encode())
    return replace(folder, fingerprint=digest.hexdigest()[:LENGTH])


def _digest(file: Path) -> str:
    try:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
