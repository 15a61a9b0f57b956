"""Greedy and beam search equal stock `GPT2LMHeadModel.generate` token for token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gpt2 import VARIANTS, save_gpt2
from support.reference import stock_logprob, stock_tokens

import genlm
from genlm.decoding.completion import Completion, Piece
from genlm.decoding.strategy import Strategy
from genlm.errors import ModelError
from genlm.records.generation import Generation

# Every sixth token is an end token in models that have any, so that beams end at many lengths.
ENDS = list(range(0, 300, 6))
SEEDS = [2, 5, 6]
PROMPT = "The king had"

SETTINGS: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"num_beams": 3, "length_penalty": -1.0},
    {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": 2.0},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 5, "length_penalty": -0.5, "early_stopping": True},
    {"num_beams": 5, "repetition_penalty": 1.3},
    {"num_beams": 6, "no_repeat_ngram_size": 2, "early_stopping": "never"},
    {"num_beams": 6, "length_penalty": 0.7, "repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
]
GREEDY_SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 0.9, "no_repeat_ngram_size": 3},
]


def named(settings: dict[str, Any]) -> str:
    return str(Strategy.of("beam" if "num_beams" in settings else "greedy", settings))


@pytest.fixture(scope="session")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Any], Path]:
    """Return a function that creates a tiny GPT-2 with random weights once for each seed and set of end tokens."""
    root = tmp_path_factory.mktemp("ending")

    def make(seed: int, eos: Any) -> Path:
        folder = root / f"{seed}-{eos if isinstance(eos, int) else len(eos)}"
        return folder if folder.exists() else save_gpt2(folder, seed=seed, eos_token_id=eos)

    return make


def generate(folder: Path, settings: dict[str, Any], count: int = 1, new: int = 12, prompt: str = PROMPT) -> Generation:
    strategy = Strategy.of("beam" if "num_beams" in settings else "greedy", settings)
    lm = genlm.load(str(folder), device="cpu")
    return lm.generate(prompt, strategy=strategy, max_new_tokens=new, num_return_sequences=count)


def agrees(folder: Path, eos: list[int], settings: dict[str, Any], count: int = 1, **limits: Any) -> Generation:
    """Check a generation against stock `generate` and return it."""
    made = generate(folder, settings, count, **limits)
    expected = stock_tokens(
        folder,
        made.prompt_token_ids,
        eos,
        max_new_tokens=made.max_new_tokens,
        num_return_sequences=count,
        **settings,
    )
    assert [completion.token_ids for completion in made.completions] == expected
    return made


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
@pytest.mark.parametrize("seed", SEEDS)
def test_beams_that_end_at_many_lengths(ending: Callable[..., Path], seed: int, settings: dict[str, Any]) -> None:
    agrees(ending(seed, ENDS), ENDS, settings, count=settings["num_beams"])


@pytest.mark.parametrize("settings", SETTINGS[::3], ids=named)
def test_beams_of_other_lengths(ending: Callable[..., Path], settings: dict[str, Any]) -> None:
    for new in (1, 2, 25):
        agrees(ending(4, [7, 70, 170]), [7, 70, 170], settings, count=2, new=new)


def test_these_models_end_at_many_lengths(ending: Callable[..., Path]) -> None:
    """Otherwise the tests above would show little."""
    made = [generate(ending(seed, ENDS), SETTINGS[0] | {"num_beams": 6}, count=6) for seed in SEEDS]
    completions = [completion for each in made for completion in each.completions]
    assert {completion.finish_reason for completion in completions} >= {"eos"}
    assert len({len(completion.token_ids) for completion in completions}) >= 3


@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_hypotheses_come_best_first(ending: Callable[..., Path], count: int) -> None:
    made = agrees(ending(2, ENDS), ENDS, {"num_beams": 4}, count=count)
    scores = [completion.logprob / len(completion.token_ids) for completion in made.completions]
    assert scores == sorted(scores, reverse=True)
    assert [completion.index for completion in made.completions] == list(range(count))


@pytest.mark.parametrize("settings", GREEDY_SETTINGS, ids=named)
@pytest.mark.parametrize("seed", SEEDS)
def test_greedy(ending: Callable[..., Path], seed: int, settings: dict[str, Any]) -> None:
    agrees(ending(seed, ENDS), ENDS, settings, new=30)
    agrees(ending(seed, 299), [299], settings, new=30)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(variant: Callable[[str], Path], name: str) -> None:
    eos = [] if name == "no-end" else [0]
    for settings in [GREEDY_SETTINGS[3], SETTINGS[3], SETTINGS[8]]:
        agrees(variant(name), eos, settings, count=settings.get("num_beams", 1), new=7, prompt="fox")


def test_the_logprob_is_the_models_own(ending: Callable[..., Path]) -> None:
    folder = ending(1, ENDS)
    made = generate(folder, {"num_beams": 4, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}, count=4)
    for completion in made.completions:
        expected = stock_logprob(folder, made.prompt_token_ids, completion.token_ids)
        assert completion.logprob == pytest.approx(expected, abs=1e-4)


def test_every_beam_may_end_at_once(tiny: Path) -> None:
    made = generate(tiny, {"num_beams": 3}, count=3, new=1)
    assert [completion.finish_reason for completion in made.completions] == ["length"] * 3
    assert len({completion.token_ids for completion in made.completions}) == 3


def test_a_stop_text_ends_a_beam_and_is_cut_off(tiny: Path) -> None:
    settings = {"num_beams": 4}
    text = generate(tiny, settings).completions[0].text
    stop = next(letter for letter in text[2:] if letter.isascii() and letter not in text[:2])
    lm = genlm.load(str(tiny), device="cpu")
    stopped = lm.generate(PROMPT, strategy="beam", max_new_tokens=12, num_return_sequences=4, stop=stop).completions
    assert not any(stop in completion.text for completion in stopped)
    ended = [completion for completion in stopped if completion.finish_reason == "stop"]
    assert ended
    for completion in ended:
        decode = lm._model.tokenizer.decode
        assert decode(completion.token_ids).startswith(completion.text + stop)
        # The token that completes the stop text is the last.
        assert stop not in decode(completion.token_ids[:-1])


def test_there_are_hypotheses_even_if_every_continuation_stops(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    stops = [chr(code) for code in range(32, 127)] + ["\ufffd", "\n"]
    made = lm.generate(PROMPT, strategy="beam", num_return_sequences=4, stop=stops, max_new_tokens=9)
    assert len(made.completions) == 4


def test_each_completion_streams_when_it_is_final(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    options: dict[str, Any] = {"strategy": "beam", "max_new_tokens": 6, "num_return_sequences": 2}
    events = list(lm.stream(PROMPT, **options))
    completions = [event for event in events if isinstance(event, Completion)]
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [(piece.index, piece.text) for piece in pieces] == [(each.index, each.text) for each in completions]
    assert completions == list(lm.generate(PROMPT, **options).completions)


def test_too_few_sequences_are_an_error(tmp_path: Path) -> None:
    from support.models import save_three_words

    lm = genlm.load(str(save_three_words(tmp_path / "three")), device="cpu")
    best = lm.generate("fox", strategy="beam:num_beams=5", max_new_tokens=1, num_return_sequences=3)
    assert len({completion.token_ids for completion in best.completions}) == 3
    with pytest.raises(ModelError, match="num_beams=5 finds 3 different sequences here, not 4"):
        lm.generate("fox", strategy="beam:num_beams=5", max_new_tokens=1, num_return_sequences=4)
    with pytest.raises(ModelError, match="finds 0 different sequences here, not 1"):
        lm.generate("fox wolf king", strategy="beam:no_repeat_ngram_size=1", max_new_tokens=1)


@pytest.mark.parametrize("length_penalty", [-50.0, 50.0])
def test_extreme_length_penalties_are_accepted(tiny: Path, length_penalty: float) -> None:
    assert generate(tiny, {"num_beams": 2, "length_penalty": length_penalty}, new=40).completions[0].text


def test_more_beams_than_fit_in_memory_are_refused_at_once(tiny: Path) -> None:
    message = r"num_beams=1000000000 needs about [\d.e+]+ GB, but only [\d.e+]+ GB are free"
    with pytest.raises(ModelError, match=message):
        generate(tiny, {"num_beams": 10**9})
