"""A fingerprint of the contents of a model folder, independent of its name and location."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import chain

from genlm.errors import ModelError
from genlm.model.files import weight_files
from genlm.model.source import ModelFolder
from genlm.model.tokenizer import VOCABULARIES

# The other files that a generated text depends on.
SMALL_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "merges.txt", *VOCABULARIES)
LENGTH = 16
CHUNK = 1 << 20


def fingerprinted(folder: ModelFolder, *, allow_pickle: bool = False) -> ModelFolder:
    """Return the folder with its fingerprint: 16 hexadecimal digits of a SHA-256 of all files that affect a text.

    Every byte counts, because training may change only some of the weights; so this takes about as long as reading
    them. A commit on the Hub gets none: its revision identifies it.

    Raises:
        ModelError: the folder has no weights, or a file cannot be read.
    """
    if folder.source == "hub":
        return folder
    weights = weight_files(folder.path, allow_pickle=allow_pickle)
    others = chain.from_iterable(sorted(folder.path.glob(pattern)) for pattern in SMALL_FILES)
    digest = hashlib.sha256()
    for file in (*weights, *others):
        own = hashlib.sha256()
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    own.update(chunk)
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
        digest.update(f"{file.name} {own.hexdigest()}\n".encode())
    return replace(folder, fingerprint=digest.hexdigest()[:LENGTH])
