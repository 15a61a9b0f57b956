"""What a strategy says of words and tokens, in the terms of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genlm.decoding.strategy import Strategy
from genlm.decoding.words import read_biases, read_words
from genlm.errors import InputError, UsageError
from genlm.model.pieces import Pieces

if TYPE_CHECKING:
    from genlm.model.load import Model


def check_biases(model: Model, strategy: Strategy) -> None:
    """Raise UsageError where a strategy's logit_bias names a token that the model does not have."""
    size = model.network.vocab_size
    beyond = next((token for token in read_biases(str(strategy.fields["logit_bias"])) if token >= size), None)
    if beyond is not None:
        raise UsageError(
            f"logit_bias has token {beyond}, beyond the model's vocabulary of {size}", hint=f"ids end at {size - 1}"
        )


def bad_words_ids(model: Model, strategy: Strategy) -> tuple[tuple[int, ...], ...]:
    """The tokens of a strategy's bad words: of each as it is, and after a space, where GPT-2 has other tokens for it.

    Raises:
        InputError: a word that the tokenizer cannot express.
    """
    words = read_words(str(strategy.fields["bad_words"]))
    if not words:
        return ()
    pieces = Pieces(model.tokenizer)
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, f" {word}"):
            ids = tuple(token for part in pieces.encode(text) for token in part)
            if not ids:
                raise InputError(f"the model's tokenizer knows nothing of the bad word {word!r}: it gives no tokens")
            found[ids] = None
    # A token that the model does not have is never generated.
    return tuple(ids for ids in found if max(ids) < model.network.vocab_size)
