"""The fields and logits processors that several kinds share.

Processors apply in the order of their numbers. That is transformers' order; processors that transformers does not have
are next to the most similar ones.
"""

from __future__ import annotations

from typing import Any, TypeVar

from genlm.decoding.declaration import Biases, Field, Number, Processor, ValueType, Words

T = TypeVar("T")


def _processor(name: str, order: int, *fields: Field[Any], has_state: bool = False) -> Processor:
    return Processor(f"genlm.decoding.processors:{name}", order, fields, has_state)


def _off(name: str, off: T, values: ValueType[T], meaning: str, **more: Any) -> Field[T]:
    """Return a field that is off by default."""
    return Field(name, off, values, meaning, neutral=off, **more)


LOGIT_BIAS = _off(
    "logit_bias",
    (),
    Biases(),
    "Add BIAS, from -1000000 to 1000000, to the logit of the token ID",
    flag="--logit-bias ID:BIAS",
    in_transformers=True,
    to_transformers=lambda biases: {"sequence_bias": [[[token], bias] for token, bias in biases]} if biases else {},
)
REPETITION_PENALTY = _off(
    "repetition_penalty",
    1.0,
    Number(float, 0, low_open=True),
    "Divide positive logits of earlier tokens by this, multiply negative ones; above 1 discourages repetition",
    flag="--repetition-penalty X",
    in_transformers=True,
)
PRESENCE_PENALTY = _off(
    "presence_penalty", 0.0, Number(float, -100, 100), "Subtract this from the logits of tokens generated before"
)
FREQUENCY_PENALTY = _off(
    "frequency_penalty",
    0.0,
    Number(float, -100, 100),
    "Subtract this from a token's logit for each time it was generated",
)
DRY = (
    _off(
        "dry_multiplier",
        0.0,
        Number(float, 0, 100),
        "Penalty for a token that would extend a repeat of dry_allowed_length tokens",
    ),
    Field("dry_base", 1.75, Number(float, 1, 100), "Factor by which that penalty grows with each further token"),
    Field("dry_allowed_length", 2, Number(int, 1), "How many tokens may be repeated without that penalty"),
)
NO_REPEAT_NGRAM_SIZE = _off(
    "no_repeat_ngram_size",
    0,
    Number(int, 0),
    "Never repeat a sequence of this many tokens, including those of the prompt",
    flag="--no-repeat-ngram-size N",
    in_transformers=True,
)
BAD_WORDS = _off(
    "bad_words",
    (),
    Words(),
    "Ban these words, with or without a leading space",
    flag="--bad-word TEXT",
    in_transformers=True,
    # The argument bad_words_ids needs a tokenizer: the caller of `generate` adds it.
    to_transformers=lambda _: {},
)
MIN_NEW_TOKENS = _off(
    "min_new_tokens",
    0,
    Number(int, 0),
    "Generate at least this many tokens before an end token",
    in_transformers=True,
)
PENALTIES = (
    _processor("add_bias", 10, LOGIT_BIAS),
    _processor("penalize_repetition", 20, REPETITION_PENALTY),
    _processor("penalize_use", 30, PRESENCE_PENALTY, FREQUENCY_PENALTY),
    _processor("penalize_repeats", 40, *DRY),
    _processor("ban_repeated_ngrams", 50, NO_REPEAT_NGRAM_SIZE),
    _processor("ban_words", 60, BAD_WORDS),
    _processor("ban_early_end", 70, MIN_NEW_TOKENS),
)

TEMPERATURE = _off(
    "temperature",
    1.0,
    Number(float, 0, low_open=True, or_zero=True),
    "Divide the logits by this: below 1 sharpens the distribution, above 1 flattens it; 0 is greedy",
    flag="--temperature T",
    in_transformers=True,
)
DIVIDE_BY_TEMPERATURE = _processor("divide_by_temperature", 100, TEMPERATURE)

TOP_N_SIGMA = _off(
    "top_n_sigma",
    0.0,
    Number(float, 0, 1000),
    "Keep tokens within this many standard deviations of the largest logit",
)
TOP_H = _off(
    "top_h",
    0.0,
    Number(float, 0, 1),
    "Keep the most likely tokens that account for this share of the entropy",
    in_transformers=True,
    to_transformers=lambda share: {"top_h": share or None},
)
TOP_K = _off(
    "top_k",
    0,
    Number(int, 0),
    "Keep this many of the most likely tokens",
    flag="--top-k K",
    in_transformers=True,
)
TOP_P = _off(
    "top_p",
    1.0,
    Number(float, 0, 1, low_open=True),
    "Keep the smallest set of tokens with at least this total probability",
    flag="--top-p P",
    in_transformers=True,
)
MIN_P = _off(
    "min_p",
    0.0,
    Number(float, 0, 1),
    "Keep tokens at least this many times as likely as the most likely one",
    flag="--min-p P",
    in_transformers=True,
)
TYPICAL_P = _off(
    "typical_p",
    1.0,
    Number(float, 0, 1, low_open=True),
    "Keep the tokens whose surprise is closest to the entropy, with this total probability",
    flag="--typical-p P",
    in_transformers=True,
)
EPSILON_CUTOFF = _off(
    "epsilon_cutoff",
    0.0,
    Number(float, 0, 1, high_open=True),
    "Keep tokens with at least this probability",
    flag="--epsilon-cutoff P",
    in_transformers=True,
)
ETA_CUTOFF = _off(
    "eta_cutoff",
    0.0,
    Number(float, 0, 1, high_open=True),
    "Like epsilon_cutoff, with a lower cutoff when the distribution is flat",
    flag="--eta-cutoff P",
    in_transformers=True,
)
# Truncations by field: each keeps part of the distribution, whatever the tokens so far.
TRUNCATION = {
    "top_n_sigma": _processor("keep_top_n_sigma", 110, TOP_N_SIGMA),
    "top_h": _processor("keep_top_h", 120, TOP_H),
    "top_k": _processor("keep_top_k", 130, TOP_K),
    "top_p": _processor("keep_top_p", 140, TOP_P),
    "min_p": _processor("keep_min_p", 150, MIN_P),
    "typical_p": _processor("keep_typical", 160, TYPICAL_P),
    "epsilon_cutoff": _processor("keep_epsilon", 170, EPSILON_CUTOFF),
    "eta_cutoff": _processor("keep_eta", 180, ETA_CUTOFF),
}

EXCLUDE_TOP_CHOICES = _processor(
    "Xtc",
    200,
    _off("xtc_probability", 0.0, Number(float, 0, 1), "How often to rule out all top choices but the least likely"),
    Field("xtc_threshold", 0.1, Number(float, 0, 0.5, low_open=True), "Probability that makes a token a top choice"),
    has_state=True,
)

# The processors that several kinds share, under the names that `genlm strategies` gives them.
SHARED = {
    "penalties": PENALTIES,
    "temperature": (DIVIDE_BY_TEMPERATURE,),
    "truncation": tuple(TRUNCATION.values()),
    "xtc": (EXCLUDE_TOP_CHOICES,),
}
