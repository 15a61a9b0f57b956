"""Text files in, token ids out: what training and evaluation read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

END_OF_TEXT = "<|endoftext|>"


def find_texts(sources: Iterable[Path]) -> list[Path]:
    """The text files named by `sources`, a folder standing for its `*.txt` in order of name."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found.extend(sorted(source.glob("*.txt")))
        elif source.is_file():
            found.append(source)
        else:
            raise InputError(f"no such file or folder: {source}")
    if not found:
        raise InputError("the corpus holds no text files", hint="a folder stands for the *.txt files in it")
    return found


def read_text(path: Path) -> str:
    """The file's text. Raises InputError, with the byte offset, where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 at byte {error.start}") from error


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer as GPT-2's: any text can be encoded, nothing is normalised."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """All texts as one row of ids, an end-of-text token before each and after the last. Shape: (tokens,)."""
    import torch

    end = tokenizer.token_to_id(END_OF_TEXT)
    row = [end]
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        row += encoding.ids
        row.append(end)
    return torch.tensor(row)
