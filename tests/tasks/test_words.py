"""Banned words and biases, from a strategy to a text."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import load, save_three_words

import genlm
from genlm.api import LanguageModel
from genlm.decoding.completion import Completion
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, UsageError
from genlm.model.load import Model
from genlm.tasks.generate import bad_words_ids

PROMPT = "Once upon a time"
SPECS = ["greedy", "beam:num_beams=3", "sample", "top-k", "contrastive", "dola", "diverse-beam", "beam-sample"]


@pytest.fixture(scope="module")
def lm(tiny: Path) -> LanguageModel:
    return genlm.load(str(tiny), device="cpu")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


def complete(lm: LanguageModel, strategy: Strategy, *, trace: bool = False) -> Completion:
    return lm.generate(PROMPT, strategy=strategy, max_new_tokens=25, seed=5, trace=trace).completions[0]


def tokens(lm: LanguageModel, strategy: Strategy) -> tuple[int, ...]:
    return complete(lm, strategy).token_ids


def holds(ids: tuple[int, ...], word: tuple[int, ...]) -> bool:
    return any(ids[at : at + len(word)] == word for at in range(len(ids)))


def words_in(model: Model, ids: tuple[int, ...]) -> list[str]:
    """Texts of one or two tokens in `ids` that the tokenizer encodes as these tokens."""
    decode, encode = model.tokenizer.decode, model.tokenizer.encode
    texts = [decode(ids[at : at + size]) for at in range(len(ids) - 1) for size in (1, 2)]
    return [text for text in texts if text.strip() and "\ufffd" not in text and holds(ids, tuple(encode(text)))]


@pytest.mark.parametrize("spec", SPECS)
def test_a_bad_word_is_never_generated(lm: LanguageModel, model: Model, spec: str) -> None:
    plain = Strategy.parse(spec)
    words = words_in(model, tokens(lm, plain))
    assert words
    banned = Strategy.of(plain.kind, {**plain.fields, "bad_words": words})
    made = complete(lm, banned, trace=True)
    found = bad_words_ids(model, banned)
    assert made.token_ids
    assert not any(holds(made.token_ids, word) for word in found)
    # The trace does not count banned words as candidates.
    single = {word for word in found if len(word) == 1}
    assert single
    assert all(token.candidates <= model.network.vocab_size - len(single) for token in made.trace or ())


@pytest.mark.parametrize("spec", SPECS)
def test_a_large_bias_makes_its_token_certain(lm: LanguageModel, spec: str) -> None:
    plain = Strategy.parse(spec)
    wanted = Strategy.of(plain.kind, {**plain.fields, "logit_bias": "41:1000"})
    assert set(tokens(lm, wanted)) == {41}


def test_a_word_is_banned_with_and_without_a_leading_space(model: Model) -> None:
    encode = model.tokenizer.encode
    found = bad_words_ids(model, Strategy.of("greedy", {"bad_words": ["king", "a, b"]}))
    assert found == tuple(tuple(encode(text)) for text in ["king", " king", "a, b", " a, b"])


def test_without_bad_words_no_tokens_are_banned(model: Model) -> None:
    assert bad_words_ids(model, Strategy.parse("beam")) == ()


def test_a_bias_for_a_token_beyond_the_vocabulary_is_refused(lm: LanguageModel, model: Model) -> None:
    size = model.network.vocab_size
    strategy = Strategy.parse(f"greedy:logit_bias=3:1;{size}:2")
    message = f"^logit_bias has token {size}, beyond the model's vocabulary of {size}$"
    with pytest.raises(UsageError, match=message):
        lm.generate(PROMPT, strategy=strategy)
    with pytest.raises(UsageError, match=message):
        lm.next(PROMPT, strategy=strategy)
    assert lm.generate(PROMPT, strategy=f"greedy:logit_bias={size - 1}:2", max_new_tokens=1).completions


def test_next_shows_banned_tokens_with_probability_zero(lm: LanguageModel, model: Model) -> None:
    encode = model.tokenizer.encode
    word, token = next((each.text, each.id) for each in lm.next(PROMPT).candidates if encode(each.text) == [each.id])
    banned = Strategy.of("greedy", {"bad_words": [word]})
    shown = {each.id: each.filtered for each in lm.next(PROMPT, strategy=banned).candidates}
    assert shown[token] == 0.0
    assert sum(value for value in shown.values() if value) > 0


def test_a_word_that_the_tokenizer_cannot_express_is_refused(tmp_path: Path) -> None:
    save_three_words(tmp_path)
    with pytest.raises(InputError, match="gives no tokens for the bad word ' '"):
        genlm.load(str(tmp_path), device="cpu").generate("fox", strategy="greedy:bad_words=%20")
