"""Long texts: encoded in parts, or only their ends, with exactly the tokens of the whole text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gpt2 import TEXT
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

import genlm
from genlm.errors import InputError
from genlm.model.pieces import Pieces
from genlm.model.tokenizer import LLAMA_3, LONGEST_UNCUT, QWEN_2, Tokenizer
from genlm.tasks.train.tokenizers import make_tokenizer, train_bpe

# Texts in which many tokens span spaces, line breaks, punctuation and digits.
CORPUS = [
    TEXT,
    "a \n\n\nb\n \n",
    "b.\n\n  a \n",
    "\n \n\n",
    "it's 12345, it's 'so'! 狐狸跑了。狐 a1b2.3 ",
    "ab, ab. ab! ",
] * 5
TEXTS = st.text(alphabet=st.sampled_from("abIt's1 2.,!?\n\r\t_-é狐\u0301\u00a0。ß<>|"), max_size=60) | st.text(
    alphabet=st.characters(exclude_categories=["Cs"]), max_size=40
)


def split_by(*steps: Any) -> Any:
    return pre_tokenizers.Sequence(list(steps))


def trained(model: Any, trainer: Any, pre_tokenizer: Any, normalizer: Any = None) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def byte_bpe(pre_tokenizer: Any, normalizer: Any = None) -> Backend:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    return trained(models.BPE(), trainer, pre_tokenizer, normalizer)


def byte_bpe_by(pattern: str) -> Backend:
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return byte_bpe(split_by(pre_tokenizers.Split(Regex(pattern), behavior="isolated"), bytes_only))


def word_level(pre_tokenizer: Any, normalizer: Any = None) -> Backend:
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    return trained(models.WordLevel(unk_token="<unk>"), trainer, pre_tokenizer, normalizer)


def unigram(pre_tokenizer: Any) -> Backend:
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return trained(models.Unigram(), trainer, pre_tokenizer)


def with_added(backend: Backend, *tokens: AddedToken) -> Backend:
    backend.add_tokens(list(tokens))
    return backend


def with_ends(backend: Backend) -> Backend:
    """Add a token before and after each text."""
    backend.add_special_tokens(["<s>", "</s>"])
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return backend


CUT: dict[str, Callable[[], Backend]] = {
    "gpt2": lambda: train_bpe(CORPUS, 400),
    "gpt2 with a prefix space": lambda: byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "gpt2 with NFC": lambda: byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()),
    "digits": lambda: byte_bpe(split_by(pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False))),
    "llama 3": lambda: byte_bpe_by(LLAMA_3),
    "qwen 2": lambda: byte_bpe_by(QWEN_2),
    "words": lambda: make_tokenizer("word", CORPUS, 400),
    "characters": lambda: make_tokenizer("char", CORPUS, 300),
    "word level": lambda: word_level(pre_tokenizers.Whitespace()),
    "word level, lower case": lambda: word_level(
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=True)
    ),
    "unigram": lambda: unigram(pre_tokenizers.Metaspace()),
    "unigram with one prefix": lambda: unigram(pre_tokenizers.Metaspace(prepend_scheme="first")),
    "unigram of words": lambda: unigram(split_by(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace())),
    "with ends": lambda: with_ends(train_bpe(CORPUS, 400)),
    "with added tokens": lambda: with_added(
        train_bpe(CORPUS, 400), AddedToken("  "), AddedToken("<|ab|>", lstrip=True), AddedToken("<b>", rstrip=True)
    ),
}
# Tokenizers of which no safe cut is known.
UNCUT: dict[str, Callable[[], Backend]] = {
    "no pre-tokenizer": lambda: trained(
        models.BPE(), trainers.BpeTrainer(vocab_size=200, show_progress=False), split_by()
    ),
    "an unknown pattern": lambda: byte_bpe_by(r"a b|\s|\S+"),
    "an added token with a space": lambda: with_added(train_bpe(CORPUS, 400), AddedToken("a b")),
    "an added token that strips": lambda: with_added(train_bpe(CORPUS, 400), AddedToken("ab", rstrip=True)),
    "an added word": lambda: with_added(train_bpe(CORPUS, 400), AddedToken(" ab", single_word=True)),
    "a prefix": lambda: word_level(pre_tokenizers.Whitespace(), normalizers.Prepend("a")),
}
MADE = {name: Tokenizer(make()) for name, make in (CUT | UNCUT).items()}


@pytest.mark.parametrize("name", MADE)
@given(text=TEXTS, size=st.integers(1, 20))
def test_the_parts_of_a_text_have_the_tokens_of_the_whole(name: str, text: str, size: int) -> None:
    tokenizer = MADE[name]
    parts = list(tokenizer.parts(text, size))
    assert "".join(parts) == text
    ids = [id for part in parts for id in tokenizer.encoding(part, add_special_tokens=False).ids]
    assert ids == tokenizer.encoding(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", MADE)
@given(text=TEXTS, most=st.integers(1, 20), size=st.integers(1, 20))
def test_the_end_of_a_text_has_the_last_tokens_of_the_whole(name: str, text: str, most: int, size: int) -> None:
    tokenizer = MADE[name]
    end = tokenizer.end_of(text, most, size)
    assert text.endswith(end)
    assert tokenizer.encode(end)[-most:] == tokenizer.encode(text)[-most:]


@pytest.mark.parametrize("name", MADE)
@given(text=TEXTS)
def test_a_text_has_at_least_the_tokens_that_its_length_implies(name: str, text: str) -> None:
    assert MADE[name].least_tokens(text) <= len(MADE[name].encode(text))


@pytest.mark.parametrize("name", CUT)
def test_long_texts_are_cut_near_the_size_that_is_asked_for(name: str) -> None:
    text = "the wolf ran, and the king ran " * 400
    assert max(map(len, MADE[name].parts(text, 100))) < 140
    assert len(MADE[name].end_of(text, 20, 400)) <= 400


@pytest.mark.parametrize("name", UNCUT)
def test_a_text_stays_whole_if_no_safe_cut_is_known(name: str) -> None:
    text = "the wolf ran, and the king ran " * 400
    assert list(MADE[name].parts(text, 100)) == [text]
    assert MADE[name].end_of(text, 20, 400) is text


def test_byte_level_tokens_bound_the_length_of_a_text() -> None:
    longest = max(map(len, MADE["gpt2"].backend.get_vocab()))  # type: ignore[attr-defined]
    assert MADE["gpt2"].least_tokens("a" * 1000) == 1000 // longest
    assert MADE["word level"].least_tokens("a" * 1000) == 0


@pytest.mark.parametrize("name", ["gpt2", "unigram", "with ends"])
def test_the_spans_of_tokens_do_not_depend_on_the_parts(name: str) -> None:
    short = TEXT * 2
    pieces = Pieces(MADE[name])
    (whole,) = [list(MADE[name].parts(short))]
    assert whole == [short]
    long = short * (400_000 // len(short))
    assert len(list(MADE[name].parts(long))) > 2
    few, many = list(pieces.tokens(short)), list(pieces.tokens(long))
    inside = slice(1, -1) if name == "with ends" else slice(None)
    assert [token.id for token in many[inside]][-40:] == [token.id for token in few[inside]][-40:]
    shift, byte_shift = len(long) - len(short), len(long.encode()) - len(short.encode())
    last, expected = many[inside][-1], few[inside][-1]
    assert (last.start, last.end) == (expected.start + shift, expected.end + shift)
    assert (last.byte_start, last.byte_end) == (expected.byte_start + byte_shift, expected.byte_end + byte_shift)
    assert [token.id for token in many] == MADE[name].encode(long)
    assert sum(token.special for token in many) == (2 if name == "with ends" else 0)


# Prompts far beyond the context.


def test_a_prompt_of_megabytes_is_cut_or_refused_at_once(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    end = "The king had three sons. " * 9
    prompt = "Once upon a time there was a wolf. " * 300_000 + end
    whole = genlm.load(str(tiny), device="cpu").generate(end, overflow="truncate-left", max_new_tokens=24)
    made = lm.generate(prompt, overflow="truncate-left", max_new_tokens=24)
    assert made.prompt_token_ids == whole.prompt_token_ids
    with pytest.raises(InputError, match=r"the prompt has more than 40 tokens, with 24 new ones beyond .* of 64$"):
        lm.generate(prompt, max_new_tokens=24)


def test_a_single_word_of_megabytes_is_refused(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    word = "a" * (LONGEST_UNCUT + 1)
    with pytest.raises(InputError, match="the prompt has more than 54 tokens"):
        lm.generate(word, max_new_tokens=10)
    with pytest.raises(InputError, match=f"the text has {len(word)} characters and cannot be cut between two words"):
        lm.generate(word, max_new_tokens=10, overflow="truncate-left")
