"""Continuing a prompt: limits, prompts, the end of a text, and the settings that apply."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.gpt2 import save_gpt2
from support.models import save_other, save_three_words

import genlm
from genlm.api import LanguageModel
from genlm.decoding.completion import Completion, Piece
from genlm.decoding.strategy import Strategy
from genlm.errors import InputError, ModelError, UsageError
from genlm.model.info import ENGINES, Engine
from genlm.tasks.generate import Limits, check_count, continue_prompt, result_of

PROMPT = "Once upon a time"
SPECS = ["greedy", "beam", "sample", "top-k", "top-p"]


def load(folder: Path) -> LanguageModel:
    return genlm.load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def lm(tiny: Path) -> LanguageModel:
    return load(tiny)


# Limits.


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"max_new_tokens": -5}, "max_new_tokens must be at least 1, not -5"),
        ({"num_return_sequences": 0}, "num_return_sequences must be at least 1, not 0"),
        ({"max_new_tokens": 10**19}, f"max_new_tokens must be at most {10**18}, not {10**19}"),
        ({"num_return_sequences": 10**99}, rf"num_return_sequences must be at most {10**18}, not 1\d+…"),
        ({"overflow": "cut"}, "overflow must be error or truncate-left, not 'cut'"),
        ({"stop": ("a", "")}, "a stop text must not be empty"),
    ],
)
def test_invalid_limits_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        Limits(**limits)


def test_greedy_has_one_completion() -> None:
    with pytest.raises(UsageError, match=r"^greedy has one completion, not 2$"):
        check_count(Strategy.parse("greedy"), Limits(num_return_sequences=2))


def test_there_are_no_more_completions_than_beams() -> None:
    check_count(Strategy.parse("beam:num_beams=3"), Limits(num_return_sequences=3))
    with pytest.raises(UsageError, match=r"^num_return_sequences=4 is more than num_beams=3$"):
        check_count(Strategy.parse("beam:num_beams=3"), Limits(num_return_sequences=4))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("sample", {"num_return_sequences": 10**12}, r"num_return_sequences=1000000000000 needs about"),
        (f"beam:num_beams={10**12}", {}, r"num_beams=1000000000000 needs about .* GB, but only .* GB are free"),
        ("sample", {"max_new_tokens": 10**18}, r"1000000000000000000 new tokens leave no room for a prompt"),
    ],
)
def test_more_than_any_memory_holds_is_refused_at_once(
    tiny: Path, spec: str, options: dict[str, int], message: str, engine: Engine
) -> None:
    with pytest.raises((InputError, ModelError), match=message):
        genlm.load(str(tiny), device="cpu", engine=engine).generate(PROMPT, strategy=spec, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_huge_top_k_keeps_everything(tiny: Path, engine: Engine) -> None:
    lm = genlm.load(str(tiny), device="cpu", engine=engine)
    texts = [lm.generate(PROMPT, strategy=f"top-k:top_k={k}", seed=3).completions[0].text for k in (300, 10**18)]
    assert texts[0] == texts[1]


def test_any_integer_is_a_seed_in_both_engines(tiny: Path) -> None:
    for engine in ENGINES:
        lm = genlm.load(str(tiny), device="cpu", engine=engine)
        for seed in (10**40, -(10**40), -1):
            made = [lm.generate(PROMPT, seed=seed, max_new_tokens=5) for _ in range(2)]
            assert made[0].seed == seed
            assert made[0].completions == made[1].completions


# The prompt.


def test_a_prompt_that_just_fits_is_used_whole(lm: LanguageModel) -> None:
    whole = lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids
    made = lm.generate(PROMPT, max_new_tokens=64 - len(whole), strategy="greedy")
    assert made.prompt_token_ids == whole
    assert len(made.completions[0].token_ids) == 64 - len(whole)


def test_a_prompt_too_long_is_refused_with_both_counts(lm: LanguageModel) -> None:
    count = len(lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids)
    message = f"the prompt has {count} tokens, with 60 new ones beyond the model's context of 64"
    with pytest.raises(InputError, match=message) as caught:
        lm.generate(PROMPT, max_new_tokens=60)
    assert caught.value.hint == "only the last 4 tokens of the prompt fit"
    assert caught.value.code == "prompt-too-long"


@pytest.mark.parametrize("spec", SPECS)
def test_truncation_keeps_the_end_of_the_prompt(lm: LanguageModel, spec: str) -> None:
    long = "The king had three sons. " * 20 + PROMPT
    made = lm.generate(long, strategy=spec, max_new_tokens=54, overflow="truncate-left", seed=1)
    assert len(made.prompt_token_ids) == 10
    assert lm._model.tokenizer.encode(long)[-10:] == list(made.prompt_token_ids)
    assert made.prompt == long
    assert len(made.completions[0].token_ids) <= 54


def test_more_new_tokens_than_fit_in_the_context_are_refused(lm: LanguageModel) -> None:
    for overflow in ("error", "truncate-left"):
        with pytest.raises(InputError, match="64 new tokens leave no room for a prompt in the model's context of 64"):
            lm.generate(PROMPT, max_new_tokens=64, overflow=overflow)  # type: ignore[arg-type]


def test_an_empty_prompt_starts_from_the_start_token(lm: LanguageModel) -> None:
    made = lm.generate("", strategy="greedy", max_new_tokens=5)
    assert made.prompt_token_ids == (lm._model.tokenizer.start_id(),)
    assert len(made.completions[0].token_ids) > 0


def test_an_empty_prompt_without_a_start_token_is_refused(tmp_path: Path) -> None:
    lm = load(save_three_words(tmp_path / "three"))
    with pytest.raises(InputError, match="the prompt is empty, and the model has no start token"):
        lm.generate("")


def test_a_prompt_without_tokens_is_refused(tmp_path: Path) -> None:
    lm = load(save_three_words(tmp_path / "three"))
    with pytest.raises(InputError, match="has no tokens for this prompt"):
        lm.generate("   ")


def test_a_token_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    lm = load(save_gpt2(tmp_path / "small", vocab_size=20, eos_token_id=0, bos_token_id=0))
    with pytest.raises(InputError, match=r"the tokenizer returns token \d+, but the model's vocabulary has only 20"):
        lm.generate(PROMPT)


# The end.


def test_a_text_without_another_end_has_the_maximum_length(lm: LanguageModel) -> None:
    (completion,) = lm.generate(PROMPT, strategy="greedy", max_new_tokens=9).completions
    assert (completion.finish_reason, len(completion.token_ids)) == ("length", 9)


@pytest.mark.parametrize("spec", SPECS)
def test_an_end_token_ends_the_text_and_has_no_text(tmp_path: Path, spec: str) -> None:
    lm = load(save_gpt2(tmp_path / "ends", eos_token_id=[0, *range(256, 300)]))
    made = lm.generate(PROMPT, strategy=spec, max_new_tokens=40, seed=2)
    (completion,) = made.completions
    *before, last = completion.token_ids
    assert completion.finish_reason == "eos"
    assert last in lm._model.eos_ids
    assert not lm._model.eos_ids & set(before)
    assert completion.text == lm._model.tokenizer.decode(before)


@pytest.mark.parametrize("spec", SPECS)
def test_a_stop_text_ends_the_text_and_is_cut_off(lm: LanguageModel, spec: str) -> None:
    text = lm.generate(PROMPT, strategy=spec, max_new_tokens=30, seed=4).completions[0].text
    # Its first occurrence, so that the text before it is known; "\ufffd" may be part of a character.
    start = next(
        at for at in range(4, len(text)) if "\ufffd" not in text[at : at + 3] and text.find(text[at : at + 3]) == at
    )
    stop = text[start : start + 3]
    (completion,) = lm.generate(PROMPT, strategy=spec, max_new_tokens=30, seed=4, stop=stop).completions
    assert stop not in completion.text
    decoded = lm._model.tokenizer.decode(completion.token_ids)
    if spec != "beam":
        assert completion.finish_reason == "stop"
        assert completion.text == text[:start]
        assert text.startswith(decoded)
    assert decoded.startswith(completion.text + (stop if completion.finish_reason == "stop" else ""))
    # The token that completes the stop text is the last.
    assert stop not in lm._model.tokenizer.decode(completion.token_ids[:-1])


def test_a_stop_text_that_does_not_occur_changes_nothing(lm: LanguageModel) -> None:
    options: dict[str, Any] = {"strategy": "sample", "max_new_tokens": 20, "seed": 1}
    assert lm.generate(PROMPT, stop="never said", **options).completions == lm.generate(PROMPT, **options).completions


# The model's own settings.

LEAKS = {
    "do_sample": True,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "typical_p": 0.1,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "num_return_sequences": 3,
    "max_length": 3,
    "max_new_tokens": 2,
    "min_length": 40,
    "min_new_tokens": 40,
    "length_penalty": 9.0,
    "early_stopping": True,
    "bad_words_ids": [[5], [6], [7]],
    "suppress_tokens": list(range(10, 200)),
    "begin_suppress_tokens": list(range(10, 200)),
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 9,
    "renormalize_logits": True,
    "stop_strings": ["e", "a"],
}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_settings_of_the_model_are_ignored(tmp_path: Path, family: str) -> None:
    folder = tmp_path / family
    save_gpt2(folder) if family == "gpt2" else save_other(folder, family)
    path = folder / "generation_config.json"
    plain = [load(folder).generate(PROMPT, strategy=spec, max_new_tokens=12, seed=3) for spec in SPECS]
    path.write_text(json.dumps(json.loads(path.read_text()) | LEAKS))
    # Older models have them in config.json.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"task_specific_params": {"text-generation": LEAKS}}))
    for before in plain:
        after = load(folder).generate(PROMPT, strategy=before.strategy, max_new_tokens=12, seed=3)
        assert after.completions == before.completions
        assert after.strategy == before.strategy


# NaN.


def poisoned(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.ln_f.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("spec", SPECS)
def test_logits_that_are_not_numbers_are_an_error(copied: Path, spec: str) -> None:
    with pytest.raises(ModelError, match=re.escape("not numbers (NaN or infinite) at new token 1")):
        load(poisoned(copied)).generate(PROMPT, strategy=spec, max_new_tokens=4)


def test_the_error_names_the_new_token_with_bad_logits(copied: Path) -> None:
    lm = load(copied)
    count = len(lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids)
    weights = load_file(copied / "model.safetensors")
    # The position of the third new token, which the fourth is predicted from.
    weights["transformer.wpe.weight"][count + 2] = float("inf")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    for spec in ("greedy", "beam"):
        with pytest.raises(ModelError, match="at new token 4"):
            load(copied).generate(PROMPT, strategy=spec, max_new_tokens=9)


# Results.


@pytest.mark.parametrize("spec", SPECS)
def test_the_pieces_of_each_completion_are_its_text(lm: LanguageModel, spec: str) -> None:
    count = 1 if spec == "greedy" else 3
    events = list(lm.stream(PROMPT, strategy=spec, num_return_sequences=count, max_new_tokens=20, seed=2))
    completions = {event.index: event for event in events if isinstance(event, Completion)}
    assert sorted(completions) == list(range(count))
    for index, completion in completions.items():
        own = [event for event in events if event.index == index]
        assert own[-1] == completion
        texts = [event.text for event in own if isinstance(event, Piece)]
        assert "".join(texts) == completion.text
        assert "" not in texts


def test_several_samples_stream_side_by_side(lm: LanguageModel) -> None:
    events = lm.stream(PROMPT, strategy="sample", num_return_sequences=3, max_new_tokens=20, seed=2)
    first = [next(events).index for _ in range(6)]
    assert set(first) == {0, 1, 2}


def test_the_result_records_what_made_it(lm: LanguageModel, tiny: Path) -> None:
    made = lm.generate(PROMPT, strategy="beam", num_return_sequences=2, max_new_tokens=7, seed=21)
    assert (made.model.name, made.model.source, made.model.dtype) == (str(tiny), "local", "float32")
    assert (made.prompt, made.seed, made.max_new_tokens) == (PROMPT, 21, 7)
    assert made.strategy == Strategy.parse("beam")
    timing = made.timing
    assert min(timing.load_s, timing.prefill_s, timing.decode_s) > 0
    tokens = sum(len(completion.token_ids) for completion in made.completions)
    assert timing.tokens_per_s == pytest.approx(tokens / (timing.prefill_s + timing.decode_s))


def test_the_last_event_is_the_result(lm: LanguageModel) -> None:
    def events() -> Iterator[Any]:
        return continue_prompt(lm._model, PROMPT, Strategy.parse("sample"), Limits(5, 2), 1)

    *before, result = events()
    completions = [event for event in before if isinstance(event, Completion)]
    assert tuple(sorted(completions, key=lambda each: each.index)) == result.completions
    assert result_of(events()).completions == result.completions


def test_an_invalid_request_is_refused_before_it_runs(lm: LanguageModel) -> None:
    with pytest.raises(UsageError, match="greedy has one completion"):
        continue_prompt(lm._model, PROMPT, Strategy.parse("greedy"), Limits(5, 2), 1)
    with pytest.raises(InputError, match="beyond the model's context"):
        lm.stream(PROMPT * 40)


@pytest.mark.parametrize("spec", SPECS)
def test_other_transformers_models_generate_too(tmp_path: Path, spec: str) -> None:
    lm = load(save_other(tmp_path / "llama", "llama"))
    made = lm.generate(PROMPT, strategy=spec, max_new_tokens=10, seed=1)
    assert made.completions[0].text == lm._model.tokenizer.decode(made.completions[0].token_ids)


@pytest.mark.parametrize("name", ["no-end", "context-11", "one-head", "untied"])
@pytest.mark.parametrize("spec", SPECS)
def test_unusual_variants_generate(variant: Callable[[str], Path], name: str, spec: str) -> None:
    lm = load(variant(name))
    made = lm.generate("fox", strategy=spec, max_new_tokens=7, seed=1)
    assert 1 <= len(made.completions[0].token_ids) <= 7
    assert name != "no-end" or made.completions[0].finish_reason == "length"
