"""All filters of a strategy together, in transformers' order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.logits import OUT, PENALTY, VOCAB, P, logits_and_history, on_the_border
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from genlm.decoding.filters import make_filters
from genlm.decoding.penalties import add_biases
from genlm.decoding.strategy import Strategy

TOKEN = st.integers(0, VOCAB - 1)


def apply(strategy: Strategy, logits: Tensor, history: list[list[int]]) -> Tensor:
    for each in make_filters(strategy, prompt_length=0, eos_ids=()):
        logits = each(logits, history)
    return logits


@given(logits_and_history(), st.dictionaries(TOKEN, st.floats(-1e6, 1e6), min_size=1))
def test_logit_bias(case: tuple[Tensor, list[list[int]]], biases: dict[int, float]) -> None:
    logits, history = case
    expected = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in biases.items()])(
        torch.tensor(history), logits
    )
    assert torch.equal(add_biases(logits, biases), expected)
    spelled = ";".join(f"{token}:{bias!r}" for token, bias in biases.items())
    assert torch.equal(apply(Strategy.parse(f"greedy:logit_bias={spelled}"), logits, history), expected)


@given(logits_and_history(), st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=8))
def test_bad_words(case: tuple[Tensor, list[list[int]]], words: list[list[int]]) -> None:
    logits, history = case
    words += [[5, 4], [*history[0][-1:], 3]]
    expected = NoBadWordsLogitsProcessor(words, eos_token_id=[0, 7])(torch.tensor(history), logits)
    made = make_filters(Strategy.parse("greedy"), prompt_length=0, eos_ids={0, 7}, bad_words_ids=words)
    assert torch.equal(made[0](logits, history), expected)


def test_the_end_of_a_text_is_no_bad_word() -> None:
    made = make_filters(Strategy.parse("greedy"), prompt_length=0, eos_ids={7}, bad_words_ids=[(7,)])
    assert made == []


def test_a_bias_comes_before_the_repetition_penalty() -> None:
    kept = apply(Strategy.parse("greedy:logit_bias=1:-3;2:4,repetition_penalty=2"), torch.ones(1, 4), [[1, 2]])
    assert kept.tolist() == [[1.0, -4.0, 2.5, 1.0]]


@given(
    logits_and_history(),
    st.fixed_dictionaries(
        {"repetition_penalty": PENALTY, "no_repeat_ngram_size": st.integers(0, 3), "temperature": st.floats(0.1, 5)}
    ),
    st.fixed_dictionaries(
        {
            "top_h": P,
            "top_k": st.integers(1, VOCAB),
            "min_p": st.floats(0.001, 0.5),
            "typical_p": P,
            "epsilon_cutoff": st.floats(0.001, 0.3),
            "eta_cutoff": st.floats(0.001, 0.5),
        }
    ),
    P,
)
def test_all_filters_together_apply_in_transformers_order(
    case: tuple[Tensor, list[list[int]]], modifiers: dict[str, Any], cuts: dict[str, Any], p: float
) -> None:
    logits, history = case
    size = modifiers["no_repeat_ngram_size"]
    stock: list[Any] = [RepetitionPenaltyLogitsProcessor(modifiers["repetition_penalty"])]
    stock += [NoRepeatNGramLogitsProcessor(size)] if size else []
    stock += [TemperatureLogitsWarper(modifiers["temperature"])]
    stock += [TopHLogitsWarper(cuts["top_h"]), TopKLogitsWarper(cuts["top_k"])]
    before_p = LogitsProcessorList(stock)(torch.tensor(history), logits)
    after_p = [MinPLogitsWarper(cuts["min_p"]), TypicalLogitsWarper(cuts["typical_p"])]
    after_p += [EpsilonLogitsWarper(cuts["epsilon_cutoff"]), EtaLogitsWarper(cuts["eta_cutoff"])]
    for row, ids, before in zip(logits, history, before_p, strict=True):
        if before.amax() == OUT or on_the_border(before, p):
            continue
        kept = TopPLogitsWarper(p)(None, before[None])
        # Which of equal tokens goes is arbitrary in transformers.
        if len(set(before[before > OUT].tolist())) < (before > OUT).sum():
            continue
        expected = LogitsProcessorList(after_p)(None, kept)
        ours = apply(Strategy.of("top-p", {**modifiers, **cuts, "top_p": p}), row[None], [ids])
        torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize("spec", ["greedy", "beam", "sample", "top-p:top_p=1", "typical:typical_p=1", "mirostat"])
def test_neutral_fields_filter_nothing(spec: str) -> None:
    assert make_filters(Strategy.parse(spec), prompt_length=1, eos_ids=[0]) == []


def test_a_filter_leaves_what_it_is_given_as_it_was() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, OUT]])
    spec = "top-p:top_p=0.5,top_k=2,temperature=0.5,repetition_penalty=2,no_repeat_ngram_size=1"
    apply(Strategy.parse(spec), logits, [[1]])
    assert logits.tolist() == [[3.0, 2.0, 1.0, OUT]]
