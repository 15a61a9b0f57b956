"""Tokenizers: trained on a corpus, or existing ones.

Those trained here are byte-level, like GPT-2's: every text can be encoded, and its ids decode to the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import InputError, UsageError, first_line
from genlm.model.pieces import Pieces
from genlm.model.source import Notify, find_model
from genlm.model.tokenizer import CHARACTERS, END_OF_TEXT, WORDS, load_tokenizer
from genlm.model.tokenizer import Tokenizer as TextTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

# The tokenizers that are trained on the corpus.
MADE = ("bpe", "word", "char")
# Every byte, and the end of text.
LEAST_VOCAB = 257
# Two pieces are merged only if they occur together this often. Otherwise a unique text would become a single token, and
# the model could not continue any beginning of it.
LEAST_FREQUENCY = 2
# Names of the token that ends a text.
ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>")


def make_tokenizer(name: str, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer with at most `vocab_size` entries.

    Raises:
        UsageError: the vocabulary is too small for all bytes.
    """
    if vocab_size < LEAST_VOCAB:
        raise UsageError(
            f"vocab_size must be {LEAST_VOCAB} or more (every byte, and the end of text), not {vocab_size}"
        )
    if name == "bpe":
        return train_bpe(texts, vocab_size)
    return _train_pieces(texts, WORDS if name == "word" else CHARACTERS, vocab_size)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer like GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=LEAST_FREQUENCY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_pieces(texts: Iterable[str], pattern: str, vocab_size: int) -> Tokenizer:
    """Return a tokenizer whose tokens are the most frequent matches of `pattern`; others are split into bytes."""
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
    # A BPE without merges: a match that is not an entry is split into bytes.
    tokenizer = Tokenizer(models.BPE({entry: id for id, entry in enumerate(entries)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def find_tokenizer(name: str, notify: Notify, revision: str | None = None) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a model or a tokenizer.json, and its token that ends a text.

    If it has no such token, `<|endoftext|>` is added. `revision` is that of a Hub model.

    Raises:
        InputError: the file is not a tokenizer.
        ModelError: the model cannot be found.
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
        tokenizer = loaded.backend
        ends = [token for token in (*loaded.specials[::-1], *ENDS) if tokenizer.token_to_id(token) is not None]
    end = ends[0] if ends else END_OF_TEXT
    tokenizer.add_special_tokens([end])
    return tokenizer, end


def _from_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    # `tokenizers` raises plain Exception if it cannot read a file.
    except Exception as error:
        raise InputError(f"{path}: not a tokenizer: {first_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def largest_id(tokenizer: Tokenizer) -> int:
    """Return the largest id of a tokenizer, which may be larger than the number of its entries."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values())


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Return the ids of each text, without special tokens.

    Long texts are encoded in parts: the encoding of a part takes many times the memory of its ids.
    """
    pieces = Pieces(TextTokenizer(tokenizer))
    return [[id for part in pieces.encode(text) for id in part] for text in texts]


def concatenate(documents: Iterable[Sequence[int]], end: int) -> Tensor:
    """Return all documents in one row, with `end` before each and after the last. Shape: (tokens,)."""
    import torch

    ends = torch.tensor([end])
    return torch.cat([ends, *(part for ids in documents for part in (torch.tensor(ids), ends))])
