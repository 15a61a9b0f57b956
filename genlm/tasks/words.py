"""The words and tokens that a strategy names, in terms of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genlm.decoding.kinds.shared import BAD_WORDS, LOGIT_BIAS
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError
from genlm.model.pieces import Pieces

if TYPE_CHECKING:
    from genlm.model.load import Model


def check_biases(model: Model, strategy: Strategy) -> None:
    """Raise UsageError if a strategy's logit_bias names a token that the model does not have."""
    size = model.network.vocab_size
    beyond = next((token for token, _ in strategy[LOGIT_BIAS] if token >= size), None)
    if beyond is not None:
        raise UsageError(
            f"logit_bias has token {beyond}, beyond the model's vocabulary of {size}", hint=f"ids end at {size - 1}"
        )


def bad_words_ids(model: Model, strategy: Strategy) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of a strategy's bad words, with and without a leading space: GPT-2 has other tokens for each.

    Raises:
        InputError: a word that the tokenizer cannot express.
    """
    if not strategy[BAD_WORDS]:
        return ()
    pieces = Pieces(model.tokenizer)
    found: dict[tuple[int, ...], None] = {}
    for word in strategy[BAD_WORDS]:
        for text in (word, f" {word}"):
            ids = tuple(token for part in pieces.encode(text) for token in part)
            if not ids:
                raise InputError(f"the model's tokenizer gives no tokens for the bad word {word!r}")
            found[ids] = None
    # A token beyond the vocabulary is never generated.
    return tuple(ids for ids in found if max(ids) < model.network.vocab_size)
