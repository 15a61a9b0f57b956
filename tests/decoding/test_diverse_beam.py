"""Diverse beam search equals a plain transcription of the paper, with a full forward pass for every beam."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import VARIANTS, save_gpt2
from support.models import save_other, save_three_words
from support.reference import stock, stock_logprob
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

import genlm
from genlm.errors import ModelError, UsageError

PROMPT = "The king had"
ENDS = list(range(0, 300, 6))


def transcription(
    folder: Path,
    ids: Sequence[int],
    eos: Sequence[int],
    new: int,
    *,
    beams: int,
    groups: int,
    penalty: float,
    length_penalty: float = 1.0,
    processors: Any = (),
) -> list[tuple[int, ...]]:
    """Return the best sequences of all groups, by Vijayakumar et al.'s algorithm 1 with the Hamming diversity."""
    size = beams // groups
    live: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in range(groups)]
    ended: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in range(groups)]
    done: set[int] = set()
    for length in range(1, new + 1):
        taken: list[int] = []
        for group in [group for group in range(groups) if group not in done]:
            candidates = []
            for score, tokens in live[group]:
                row = torch.tensor([[*ids, *tokens]])
                with torch.no_grad():
                    scores = stock(folder)(row).logits[:, -1].log_softmax(-1)
                for token in taken:
                    scores[0, token] -= penalty
                scores = LogitsProcessorList(processors)(row, scores)[0]
                candidates += [(score + each, (*tokens, token)) for token, each in enumerate(scores.tolist())]
            candidates = sorted(candidates, reverse=True)[: size * max(2, 1 + len(eos))]
            live[group] = [each for each in candidates if each[1][-1] not in eos][:size]
            for score, tokens in candidates[:size]:
                if tokens[-1] in eos or length == new:
                    ended[group].append((score / length**length_penalty, tokens))
            ended[group] = sorted(ended[group], reverse=True)[:size]
            taken += [tokens[-1] for _, tokens in live[group]]
            best = live[group][0][0] / length**length_penalty
            if len(ended[group]) == size and best <= ended[group][-1][0]:
                done.add(group)
    return [tokens for _, tokens in sorted(itertools.chain(*ended), reverse=True)]


def generate(folder: Path, spec: str, count: int, new: int = 8, prompt: str = PROMPT, **options: Any) -> Any:
    lm = genlm.load(str(folder), device="cpu")
    return lm.generate(prompt, strategy=spec, max_new_tokens=new, num_return_sequences=count, **options)


def tokens_of(made: Any) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in made.completions]


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 in which every sixth token is an end token."""
    return save_gpt2(tmp_path_factory.mktemp("diverse") / "ending", seed=2, eos_token_id=ENDS)


@pytest.mark.parametrize(
    ("beams", "groups", "penalty", "length_penalty"),
    [(4, 2, 0.5, 1.0), (4, 4, 1.5, 1.0), (6, 2, 3.0, 0.0), (6, 3, 0.8, 2.0), (3, 1, 5.0, 1.0), (6, 3, 100.0, -1.0)],
)
def test_the_transcription(ending: Path, beams: int, groups: int, penalty: float, length_penalty: float) -> None:
    spec = f"diverse-beam:num_beams={beams},num_beam_groups={groups},diversity_penalty={penalty}"
    made = generate(ending, f"{spec},length_penalty={length_penalty}", beams)
    assert tokens_of(made) == transcription(
        ending,
        made.prompt_token_ids,
        ENDS,
        8,
        beams=beams,
        groups=groups,
        penalty=penalty,
        length_penalty=length_penalty,
    )


def test_this_model_ends_at_many_lengths(ending: Path) -> None:
    """Otherwise the test above would show little."""
    completions = generate(ending, "diverse-beam:num_beams=6,num_beam_groups=3", 6).completions
    assert len({len(completion.token_ids) for completion in completions}) >= 2
    assert {completion.finish_reason for completion in completions} >= {"eos"}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(variant: Callable[[str], Path], name: str) -> None:
    made = generate(variant(name), "diverse-beam:diversity_penalty=2", 4, new=5, prompt="fox")
    eos = [] if name == "no-end" else [0]
    expected = transcription(variant(name), made.prompt_token_ids, eos, 5, beams=4, groups=2, penalty=2.0)
    assert tokens_of(made) == expected


def test_another_family(tmp_path: Path) -> None:
    folder = save_other(tmp_path / "llama", "llama")
    made = generate(folder, "diverse-beam:diversity_penalty=2", 4, new=5)
    assert tokens_of(made) == transcription(folder, made.prompt_token_ids, [0], 5, beams=4, groups=2, penalty=2.0)


@pytest.mark.parametrize(
    ("field", "processor"),
    [
        ("repetition_penalty=1.4", RepetitionPenaltyLogitsProcessor(1.4)),
        ("no_repeat_ngram_size=1", NoRepeatNGramLogitsProcessor(1)),
    ],
)
def test_penalties_apply_after_the_diversity(ending: Path, field: str, processor: Any) -> None:
    made = generate(ending, f"diverse-beam:diversity_penalty=1.5,{field}", 4)
    expected = transcription(
        ending, made.prompt_token_ids, ENDS, 8, beams=4, groups=2, penalty=1.5, processors=[processor]
    )
    assert tokens_of(made) == expected


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_one_group_is_beam_search(ending: Path, beams: int, penalty: float) -> None:
    spec = f"diverse-beam:num_beams={beams},num_beam_groups=1,diversity_penalty={penalty}"
    assert (
        generate(ending, spec, beams, new=20).completions
        == generate(ending, f"beam:num_beams={beams}", beams, new=20).completions
    )


def test_without_a_penalty_every_group_finds_the_same(ending: Path) -> None:
    made = generate(ending, "diverse-beam:num_beams=6,num_beam_groups=3,diversity_penalty=0", 6)
    beam = generate(ending, "beam:num_beams=2", 2)
    assert tokens_of(made) == [tokens for tokens in tokens_of(beam) for _ in range(3)]


def test_groups_of_one_beam_that_must_differ_start_with_the_most_likely_tokens(tiny: Path) -> None:
    made = generate(tiny, "diverse-beam:num_beams=5,num_beam_groups=5,diversity_penalty=1000", 5)
    with torch.inference_mode():
        logits = stock(tiny)(torch.tensor([made.prompt_token_ids])).logits[0, -1]
    assert {tokens[0] for tokens in tokens_of(made)} == set(logits.topk(5).indices.tolist())
    for step in range(8):
        assert len({tokens[step] for tokens in tokens_of(made)}) == 5


def test_with_enough_beams_each_group_finds_every_sequence(tmp_path: Path) -> None:
    folder = save_three_words(tmp_path / "three")
    every = list(itertools.product(range(3), repeat=2))
    made = generate(folder, "diverse-beam:num_beams=18,num_beam_groups=2,diversity_penalty=0", 18, new=2, prompt="fox")
    best_first = sorted(every, key=lambda tokens: stock_logprob(folder, made.prompt_token_ids, tokens), reverse=True)
    assert tokens_of(made) == [tokens for tokens in best_first for _ in range(2)]


def test_the_logprob_is_the_models_own_without_the_diversity(ending: Path) -> None:
    made = generate(ending, "diverse-beam:diversity_penalty=2", 4)
    for completion in made.completions:
        expected = stock_logprob(ending, made.prompt_token_ids, completion.token_ids)
        assert completion.logprob == pytest.approx(expected, abs=1e-4)


def test_a_stop_text_ends_a_beam(tiny: Path) -> None:
    text = generate(tiny, "diverse-beam", 1, new=12).completions[0].text
    made = generate(tiny, "diverse-beam", 4, new=12, stop=text[3:5])
    assert "stop" in {completion.finish_reason for completion in made.completions}
    assert not any(text[3:5] in completion.text for completion in made.completions)


def test_too_many_sequences_are_refused_and_too_few_are_an_error(tmp_path: Path) -> None:
    folder = save_three_words(tmp_path / "three")
    with pytest.raises(UsageError, match="num_return_sequences=5 is more than num_beams=4"):
        generate(folder, "diverse-beam", 5, prompt="fox")
    with pytest.raises(ModelError, match="finds 6 different sequences here, not 8"):
        generate(folder, "diverse-beam:num_beams=8", 8, new=1, prompt="fox")
