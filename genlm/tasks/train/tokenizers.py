"""Tokenizers made from a corpus, and those that are there already.

All that are made here are byte-level, as GPT-2's: any text can be encoded, and comes back byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from genlm.errors import InputError, UsageError, first_line
from genlm.model.source import Notify, find_model
from genlm.model.tokenizer import CHARACTERS, END_OF_TEXT, WORDS, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

Made: TypeAlias = Literal["bpe", "word", "char"]
# Every byte, and the end of text.
LEAST_VOCAB = 257
# Two pieces become one where they meet this often. What occurs once would be learned as one token, and no prompt that
# is a part of it would be known.
LEAST_OFTEN = 2
# What ends a text, by the names that tokenizers give it.
ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>")


def is_made(name: str) -> bool:
    """Whether a tokenizer of this name is made from the corpus."""
    return name in get_args(Made)


def make_tokenizer(name: str, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of at most `vocab_size` entries, made from texts.

    Raises:
        UsageError: a vocabulary too small for all bytes.
    """
    if vocab_size < LEAST_VOCAB:
        raise UsageError(
            f"vocab_size must be {LEAST_VOCAB} or more (every byte, and the end of text), not {vocab_size}"
        )
    if name == "bpe":
        return train_bpe(texts, vocab_size)
    return _of_pieces(texts, WORDS if name == "word" else CHARACTERS, vocab_size)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=LEAST_OFTEN,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _of_pieces(texts: Iterable[str], pattern: str, vocab_size: int) -> Tokenizer:
    """A tokenizer whose entries are the most frequent matches of `pattern`; any other match is spelled in bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    parts = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    splitter = pre_tokenizers.Sequence(parts)
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    frequent = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    entries = [END_OF_TEXT, *alphabet, *frequent[: vocab_size - LEAST_VOCAB]]
    # A BPE without merges: what is no entry as a whole falls into bytes.
    tokenizer = Tokenizer(models.BPE({entry: id for id, entry in enumerate(entries)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def find_tokenizer(name: str, notify: Notify, revision: str | None = None) -> tuple[Tokenizer, str]:
    """A tokenizer that is there, from a tokenizer.json or a model, and the token that ends its texts.

    It is given `<|endoftext|>` where it has no such token. `revision` is that of a model on the Hub.

    Raises:
        InputError: a file that is no tokenizer.
        ModelError: a model that cannot be found.
    """
    from genlm.model.files import read_json

    path = Path(name)
    if path.suffix == ".json":
        tokenizer = _from_file(path)
        ends = [token for token in ENDS if tokenizer.token_to_id(token) is not None]
    else:
        folder = find_model(name, revision=revision, notify=notify).path
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        loaded = load_tokenizer(folder, config.get("model_type"))
        tokenizer = loaded.backend  # type: ignore[assignment]
        ends = [token for token in (*loaded.specials[::-1], *ENDS) if tokenizer.token_to_id(token) is not None]
    end = ends[0] if ends else END_OF_TEXT
    tokenizer.add_special_tokens([end])
    return tokenizer, end


def _from_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    # `tokenizers` raises plain Exception for what it cannot read.
    except Exception as error:
        raise InputError(f"{path}: no tokenizer: {first_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest id that it gives; ids need not lie close."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values())


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def in_one_row(documents: Iterable[Sequence[int]], end: int) -> Tensor:
    """All documents in one row, an `end` before each and after the last. Shape: (tokens,)."""
    import torch

    row = [end]
    for ids in documents:
        row += ids
        row.append(end)
    return torch.tensor(row)
