"""The next token: the softmax of a forward pass, and the distribution that a strategy draws from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.driving import call
from support.gpt2 import VARIANTS
from support.models import load, save_other, save_three_words
from support.reference import stock

import genlm
from genlm.decoding.kinds import KINDS
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, ModelError, UsageError
from genlm.model.load import Model
from genlm.records.inspection import Branch, Candidate
from genlm.tasks.next import compare_continuations, grow_tree, next_token

PROMPT = "Once upon a"


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


def expected_logprobs(folder: Path, model: Model, prompt: str) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = stock(folder)(torch.tensor([model.tokenizer.encode(prompt)])).logits[0, -1]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_distribution_is_the_softmax_of_the_forward_pass(name: str, variant: Callable[[str], Path]) -> None:
    loaded = load(variant(name))
    expected = expected_logprobs(variant(name), loaded, PROMPT)
    found = next_token(loaded, PROMPT, top=10**6)
    assert len(found.candidates) == found.vocab_size == len(expected)
    for candidate in found.candidates:
        assert candidate.logprob == pytest.approx(expected[candidate.id].item(), abs=1e-4)
        assert candidate.probability == pytest.approx(math.exp(candidate.logprob))
    assert sum(candidate.probability for candidate in found.candidates) == pytest.approx(1, abs=1e-5)
    assert found.entropy == pytest.approx(-(expected.exp() * expected).sum().item(), abs=1e-4)


def test_candidates_are_ranked_from_the_most_likely(model: Model) -> None:
    found = next_token(model, PROMPT, top=7)
    assert [candidate.rank for candidate in found.candidates] == list(range(1, 8))
    logprobs = [candidate.logprob for candidate in found.candidates]
    assert logprobs == sorted(logprobs, reverse=True)


def test_an_empty_prompt_starts_from_the_start_token(model: Model) -> None:
    assert next_token(model, "").prompt_token_ids == (model.start_id,)


def test_a_prompt_may_fill_the_context_but_not_be_longer(model: Model) -> None:
    assert len(next_token(model, "o" * 64).prompt_token_ids) == 64
    with pytest.raises(InputError, match="has 65 tokens, beyond the model's context of 64"):
        next_token(model, "o" * 65)
    assert len(next_token(model, "o" * 65, overflow="truncate-left").prompt_token_ids) == 64


def test_a_vocabulary_of_three_has_three_candidates(tmp_path: Path) -> None:
    found = next_token(load(save_three_words(tmp_path / "words")), "wolf")
    assert {candidate.text for candidate in found.candidates} == {"fox", "wolf", "king"}
    assert sum(candidate.probability for candidate in found.candidates) == pytest.approx(1)


@pytest.mark.parametrize("spec", ["top-k:top_k=7", "top-p:top_p=0.6", "top-p:top_p=0.8,temperature=0.5", "greedy"])
def test_the_tokens_that_a_strategy_keeps_sum_to_one_and_the_others_are_counted(model: Model, spec: str) -> None:
    found = next_token(model, PROMPT, top=10**6, strategy=Strategy.parse(spec))
    assert found.filtered is not None
    kept = [candidate for candidate in found.candidates if candidate.filtered]
    cut = [candidate for candidate in found.candidates if candidate.filtered == 0]
    assert (found.filtered.kept, found.filtered.cut) == (len(kept), len(cut))
    assert sum(candidate.filtered or 0 for candidate in kept) == pytest.approx(1, abs=1e-5)
    assert found.filtered.cut_probability == pytest.approx(sum(c.probability for c in cut), abs=1e-5)
    assert [c.id for c in found.filtered.likeliest_cut] == [c.id for c in cut[:5]]
    assert [c.rank for c in found.filtered.likeliest_cut] == [c.rank for c in cut[:5]]
    entropy = -sum(p * math.log(p) for c in kept if (p := c.filtered or 0))
    assert found.filtered.entropy == pytest.approx(entropy, abs=1e-4)


def test_top_k_keeps_the_proportions_of_the_most_likely_tokens(model: Model) -> None:
    found = next_token(model, PROMPT, strategy=Strategy.parse("top-k:top_k=3"))
    total = sum(candidate.probability for candidate in found.candidates[:3])
    for candidate in found.candidates:
        expected = candidate.probability / total if candidate.rank <= 3 else 0
        assert candidate.filtered == pytest.approx(expected, abs=1e-6)


def test_a_penalty_counts_the_tokens_of_the_prompt(model: Model) -> None:
    prompt = "fox fox fox"
    found = next_token(model, prompt, top=10**6, strategy=Strategy.parse("sample:no_repeat_ngram_size=1"))
    cut = {candidate.id for candidate in found.candidates if candidate.filtered == 0}
    assert cut == set(model.tokenizer.encode(prompt))


BEAM_KINDS = [kind for kind, declared in KINDS.items() if "num_beams" in declared.fields]


@pytest.mark.parametrize("kind", BEAM_KINDS)
def test_a_repetition_penalty_of_beams_acts_on_log_probabilities(model: Model, kind: str) -> None:
    """Log-probabilities are negative, so a penalty can only lower them."""
    found = next_token(model, PROMPT, top=10**6, strategy=Strategy.parse(f"{kind}:repetition_penalty=2.0"))
    seen = set(found.prompt_token_ids)
    logprobs = {c.id: c.logprob * (2 if c.id in seen else 1) for c in found.candidates}
    total = math.log(sum(math.exp(logprob) for logprob in logprobs.values()))
    for candidate in found.candidates:
        assert candidate.filtered == pytest.approx(math.exp(logprobs[candidate.id] - total), abs=1e-5)


@pytest.mark.parametrize("kind", BEAM_KINDS)
def test_beams_choose_the_most_likely_of_the_shown_tokens(tiny: Path, kind: str) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    spec = f"{kind}:num_beams=8,repetition_penalty=0.5"
    # One group does not avoid the tokens of another, and draws at almost no temperature take the best.
    spec += {"diverse-beam": ",num_beam_groups=1", "beam-sample": ",temperature=0.001"}.get(kind, "")
    made = lm.generate(PROMPT, strategy=spec, max_new_tokens=1, num_return_sequences=8, seed=1)
    shown = lm.next(PROMPT, strategy=spec.partition(",temperature")[0], top=10**6).candidates
    expected = sorted(shown, key=lambda candidate: -(candidate.filtered or 0))[:8]
    assert [each.token_ids for each in made.completions] == [(candidate.id,) for candidate in expected]


def test_a_continuation_has_the_product_of_its_tokens_probabilities(tiny: Path, model: Model) -> None:
    texts = [" fox", " king had three", " time"]
    found = compare_continuations(model, PROMPT, texts)
    assert {continuation.text for continuation in found.continuations} == set(texts)
    for continuation in found.continuations:
        prompt = PROMPT
        for token in continuation.tokens:
            assert token.logprob == pytest.approx(expected_logprobs(tiny, model, prompt)[token.id].item(), abs=1e-4)
            prompt += token.text
        assert continuation.logprob == pytest.approx(sum(token.logprob for token in continuation.tokens))
    logprobs = [continuation.logprob for continuation in found.continuations]
    assert logprobs == sorted(logprobs, reverse=True)
    assert sum(continuation.share for continuation in found.continuations) == pytest.approx(1)


def whole_words(model: Model) -> list[Candidate]:
    """Candidates that the tokenizer encodes as this one token, the most likely first."""
    candidates = next_token(model, PROMPT, top=10**6).candidates
    return [candidate for candidate in candidates if model.tokenizer.encode(candidate.text) == [candidate.id]]


def test_a_continuation_of_one_token_has_its_probability_in_the_distribution(model: Model) -> None:
    best = whole_words(model)[0]
    (continuation,) = compare_continuations(model, PROMPT, [best.text]).continuations
    assert continuation.logprob == pytest.approx(best.logprob, abs=1e-5)
    assert continuation.share == 1


def test_a_continuation_that_a_strategy_rules_out_cannot_be_drawn(model: Model) -> None:
    best, *_, worst = whole_words(model)
    strategy = Strategy.parse(f"top-k:top_k={best.rank}")
    found = compare_continuations(model, PROMPT, [best.text, worst.text], strategy=strategy)
    kept = sum(candidate.probability for candidate in next_token(model, PROMPT, top=best.rank).candidates)
    first, last = found.continuations
    assert first.filtered == pytest.approx(best.logprob - math.log(kept), abs=1e-5)
    assert last.filtered == -math.inf


def test_the_shares_of_very_unequal_continuations_sum_to_one(model: Model) -> None:
    found = compare_continuations(model, PROMPT, [" fox", " fox" * 13])
    assert sum(continuation.share for continuation in found.continuations) == pytest.approx(1)


@pytest.mark.parametrize("texts", [[], [""], [" fox", ""]])
def test_an_empty_continuation_is_refused(model: Model, texts: list[str]) -> None:
    with pytest.raises(UsageError, match="must not be empty"):
        compare_continuations(model, PROMPT, texts)


def test_a_continuation_beyond_the_context_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="context of 64"):
        compare_continuations(model, "o" * 60, ["x" * 8])


def paths(branches: list[Branch], before: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Branch]]:
    """Every branch with the ids that lead to it."""
    for branch in branches:
        yield (*before, branch.id), branch
        yield from paths(branch.children, (*before, branch.id))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_tree_has_the_most_likely_continuations(family: str, tiny: Path, tmp_path: Path) -> None:
    folder = tiny if family == "gpt2" else save_other(tmp_path / "llama", "llama")
    loaded = load(folder)
    tree = grow_tree(loaded, PROMPT, 3, 4)
    assert tree.steps == 3
    before = loaded.tokenizer.encode(PROMPT)
    alive = {(): 0.0}
    for depth in (1, 2, 3):
        everything = {
            (*way, id): logprob + own
            for way, logprob in alive.items()
            for id, own in enumerate(loaded.network.logits_of([[*before, *way]], [0])[-1].log_softmax(-1).tolist())
        }
        best = sorted(everything, key=lambda way: -everything[way])[:4]
        found = {way: branch for way, branch in paths(tree.branches) if len(way) == depth}
        assert set(found) == set(best)
        for way, branch in found.items():
            assert branch.path_logprob == pytest.approx(everything[way], abs=1e-4)
            assert branch.ends == (way[-1] in loaded.eos_ids)
        alive = {way: everything[way] for way in best if way[-1] not in loaded.eos_ids}


def test_a_tree_does_not_continue_after_an_end_token(model: Model) -> None:
    tree = grow_tree(model, PROMPT, 1, 10**6)
    assert len(tree.branches) == model.network.vocab_size
    assert [branch.id for branch in tree.branches if branch.ends] == list(model.eos_ids)
    for way, branch in paths(grow_tree(model, PROMPT, 2, 400).branches):
        assert not (branch.ends and branch.children), way


def test_a_tree_has_only_tokens_that_the_strategy_keeps(model: Model) -> None:
    tree = grow_tree(model, PROMPT, 3, 10, strategy=Strategy.parse("top-k:top_k=1"))
    (first,) = tree.branches
    (second,) = first.children
    assert first.logprob == second.logprob == pytest.approx(0)
    assert first.id == next_token(model, PROMPT).candidates[0].id


@pytest.mark.parametrize(("steps", "branches"), [(0, 1), (1, 0), (101, 1)])
def test_an_empty_or_too_deep_tree_is_refused(model: Model, steps: int, branches: int) -> None:
    with pytest.raises(UsageError, match=r"steps|branches"):
        grow_tree(model, PROMPT, steps, branches)


def test_fewer_than_one_candidate_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="top must be at least 1, not 0"):
        next_token(model, PROMPT, top=0)


def test_logits_that_are_not_numbers_are_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network, "prefill", lambda prompts, room: (torch.full((1, 300), torch.nan), None))
    with pytest.raises(ModelError, match="not numbers"):
        next_token(model, PROMPT)


@pytest.mark.parametrize("spec", ["mirostat", "sample:xtc_probability=0.5"])
def test_a_strategy_that_depends_on_chance_or_earlier_draws_is_refused(model: Model, spec: str) -> None:
    with pytest.raises(UsageError, match="has no single distribution"):
        next_token(model, PROMPT, strategy=Strategy.parse(spec))


def test_min_new_tokens_counts_from_the_end_of_the_prompt(model: Model) -> None:
    (end,) = model.eos_ids
    before, after = (
        next_token(model, PROMPT, top=10**6, strategy=Strategy.parse(spec))
        for spec in ("sample", "sample:min_new_tokens=1")
    )
    assert {each.id: each.filtered for each in before.candidates}[end] > 0
    assert {each.id: each.filtered for each in after.candidates}[end] == 0


def test_greedy_gives_the_token_that_it_takes_probability_one(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    spec = "greedy:repetition_penalty=1.5"
    found = lm.next(PROMPT, strategy=spec, top=10**6)
    (taken,) = lm.generate(PROMPT, strategy=spec, max_new_tokens=1).completions[0].token_ids
    assert {each.id: each.filtered for each in found.candidates if each.filtered} == {taken: 1.0}
    assert found.filtered is not None
    assert (found.filtered.kept, found.filtered.cut, found.filtered.entropy) == (1, found.vocab_size - 1, 0.0)


def test_a_tree_of_greedy_is_one_path(model: Model) -> None:
    tree = grow_tree(model, PROMPT, 3, 10, strategy=Strategy.parse("greedy"))
    assert [branch.path_logprob for _, branch in paths(tree.branches)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        ("greedy", "greedy always takes the most likely token"),
        ("beam", "beam does not choose by these probabilities alone: its choice also depends on the scores of whole"),
        ("diverse-beam", "the tokens that earlier groups chose"),
        ("beam-sample", "beam-sample does not choose by these probabilities alone"),
        ("contrastive", "depends on the hidden state that each candidate would have"),
        ("dola", "depends on earlier layers"),
        ("top-p", None),
        ("sample", None),
    ],
)
@pytest.mark.parametrize("options", [[], ["--steps", "2"], ["--candidates", " cat, dog"]], ids=str)
def test_the_text_explains_strategies_that_choose_otherwise(
    tiny: Path, spec: str, note: str | None, options: list[str]
) -> None:
    done = call("next", PROMPT, "-m", tiny, "-s", spec, *options)
    assert done.code == 0
    shown = " ".join(done.out.split())
    if note is None:
        assert "always takes" not in shown
        assert "does not choose" not in shown
    else:
        assert note in shown
