"""Contrastive search equals, token for token, its formula applied to stock transformers' hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import VARIANTS
from support.models import save_other, save_three_words
from support.reference import stock, stock_logprob
from torch.nn.functional import cosine_similarity
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

import genlm
from genlm.decoding.completion import Completion, Piece
from genlm.errors import ModelError, UsageError
from genlm.model import memory

PROMPT = "The king had"


def formula(
    folder: Path, ids: Sequence[int], eos: Sequence[int], new: int, alpha: float, k: int, processors: Any = ()
) -> tuple[int, ...]:
    """Return the tokens that Su et al.'s equation 5 gives, with a full forward pass for every candidate."""
    text = list(ids)
    for _ in range(new):
        scores: dict[int, float] = {}
        rows = torch.tensor([text])
        with torch.inference_mode():
            output = stock(folder)(rows, output_hidden_states=True)
        before = output.hidden_states[-1][0]
        logits = LogitsProcessorList(processors)(rows, output.logits[:, -1])[0]
        probability = logits.softmax(-1)
        for token in probability.topk(min(k, len(probability))).indices.tolist():
            if logits[token] > -torch.inf:
                with torch.inference_mode():
                    after = stock(folder)(torch.tensor([[*text, token]]), output_hidden_states=True)
                likeness = max(float(cosine_similarity(after.hidden_states[-1][0, -1], h, dim=0)) for h in before)
                scores[token] = (1 - alpha) * float(probability[token]) - alpha * likeness
        text.append(max(scores, key=lambda token: scores[token]))
        if text[-1] in eos:
            break
    return tuple(text[len(ids) :])


def generate(folder: Path, spec: str, new: int = 12, prompt: str = PROMPT, **options: Any) -> genlm.Generation:
    return genlm.load(str(folder), device="cpu").generate(prompt, strategy=spec, max_new_tokens=new, **options)


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.2, 10), (1.0, 3), (0.95, 300)])
def test_the_formula(tiny: Path, alpha: float, k: int) -> None:
    made = generate(tiny, f"contrastive:penalty_alpha={alpha},top_k={k}")
    assert made.completions[0].token_ids == formula(tiny, made.prompt_token_ids, [0], 12, alpha, k)
    assert made.completions[0].token_ids != generate(tiny, "greedy").completions[0].token_ids


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(variant: Callable[[str], Path], name: str) -> None:
    made = generate(variant(name), "contrastive:penalty_alpha=0.8,top_k=5", new=6, prompt="fox")
    eos = [] if name == "no-end" else [0]
    assert made.completions[0].token_ids == formula(variant(name), made.prompt_token_ids, eos, 6, 0.8, 5)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox", "mistral"])
def test_other_families(tmp_path: Path, family: str) -> None:
    folder = save_other(tmp_path / family, family)
    made = generate(folder, "contrastive:penalty_alpha=0.7,top_k=6", new=8)
    assert made.completions[0].token_ids == formula(folder, made.prompt_token_ids, [0], 8, 0.7, 6)


def test_it_ends_at_an_end_token(tmp_path: Path) -> None:
    from support.gpt2 import save_gpt2

    ends = list(range(0, 300, 3))
    folder = save_gpt2(tmp_path / "ending", eos_token_id=ends)
    made = generate(folder, "contrastive:penalty_alpha=0.5,top_k=8", new=30)
    assert made.completions[0].finish_reason == "eos"
    assert made.completions[0].token_ids == formula(folder, made.prompt_token_ids, ends, 30, 0.5, 8)


@pytest.mark.parametrize(
    ("field", "processor"),
    [
        ("repetition_penalty=1.7", RepetitionPenaltyLogitsProcessor(1.7)),
        ("no_repeat_ngram_size=1", NoRepeatNGramLogitsProcessor(1)),
    ],
)
def test_penalties_apply_to_the_probability(tiny: Path, field: str, processor: Any) -> None:
    made = generate(tiny, f"contrastive:penalty_alpha=0.3,top_k=6,{field}", new=20)
    assert made.completions[0].token_ids == formula(tiny, made.prompt_token_ids, [0], 20, 0.3, 6, [processor])


@pytest.mark.parametrize(
    "spec", ["contrastive:penalty_alpha=0", "contrastive:top_k=1", "contrastive:top_k=1,penalty_alpha=1"]
)
def test_without_a_penalty_or_a_choice_it_is_greedy(tiny: Path, spec: str) -> None:
    (made,), (greedy,) = (generate(tiny, each, new=30).completions for each in (spec, "greedy"))
    assert (made.token_ids, made.text) == (greedy.token_ids, greedy.text)


def test_a_token_that_is_ruled_out_is_no_candidate(tmp_path: Path) -> None:
    folder = save_three_words(tmp_path / "three")
    made = generate(folder, "contrastive:penalty_alpha=1,no_repeat_ngram_size=1", new=2, prompt="fox")
    assert sorted(made.completions[0].token_ids) == [1, 2]
    with pytest.raises(ModelError, match="no_repeat_ngram_size=1 leaves no token to choose at new token 3"):
        generate(folder, "contrastive:no_repeat_ngram_size=1", new=3, prompt="fox")


def test_a_stop_text_ends_it_and_is_cut_off(tiny: Path) -> None:
    text = generate(tiny, "contrastive").completions[0].text
    stop = text[3:5]
    stopped = generate(tiny, "contrastive", stop=stop).completions[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(stop)], "stop")


def test_the_logprob_is_the_models_own(tiny: Path) -> None:
    made = generate(tiny, "contrastive:repetition_penalty=1.5", new=20)
    expected = stock_logprob(tiny, made.prompt_token_ids, made.completions[0].token_ids)
    assert made.completions[0].logprob == pytest.approx(expected, abs=1e-3)


def test_it_streams(tiny: Path) -> None:
    events = list(genlm.load(str(tiny), device="cpu").stream(PROMPT, strategy="contrastive", max_new_tokens=12))
    pieces = [event.text for event in events if isinstance(event, Piece)]
    assert len(pieces) > 3
    assert isinstance(events[-1], Completion)
    assert "".join(pieces) == events[-1].text


def test_the_whole_context_can_be_used(tiny: Path) -> None:
    lm = genlm.load(str(tiny), device="cpu")
    room = 64 - len(lm.generate(PROMPT, max_new_tokens=1).prompt_token_ids)
    made = lm.generate(PROMPT, strategy="contrastive", max_new_tokens=room)
    assert len(made.completions[0].token_ids) == room


def test_there_is_one_completion(tiny: Path) -> None:
    with pytest.raises(UsageError, match="contrastive has one completion, not 2"):
        generate(tiny, "contrastive", num_return_sequences=2)


def test_more_candidates_than_fit_in_memory_are_refused_at_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda *_: 10_000)
    with pytest.raises(ModelError, match=r"top_k=4 needs about [\d.e+]+ GB"):
        generate(tiny, "contrastive")


def test_logits_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from support.gpt2 import save_gpt2

    folder = save_gpt2(tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.ln_f.bias"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"not numbers .* at new token 1"):
        generate(folder, "contrastive")
