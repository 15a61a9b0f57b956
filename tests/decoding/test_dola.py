"""DoLa equals, token for token, its definition applied to stock transformers' hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import VARIANTS, save_gpt2
from support.models import save_other, save_three_words
from support.reference import stock, stock_logprob
from torch.nn.functional import kl_div
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

import genlm
from genlm.decoding.completion import Completion, Piece
from genlm.decoding.dola import candidate_layers, contrasted
from genlm.errors import ModelError, UsageError

PROMPT = "The king had"


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    """Return transformers' Jensen-Shannon divergence as a sum; its mean over the vocabulary ranks the same."""
    return float(sum(kl_div(each.log(), (p + q) / 2, reduction="sum") for each in (p, q)))


def definition(
    folder: Path, ids: Sequence[int], eos: Sequence[int], new: int, layers: Sequence[int], processors: Any = ()
) -> tuple[int, ...]:
    """Return the tokens that contrasting with these layers gives, with a full forward pass for every token."""
    text = list(ids)
    for _ in range(new):
        rows = torch.tensor([text])
        with torch.inference_mode():
            output = stock(folder)(rows, output_hidden_states=True)
            early = [stock(folder).lm_head(output.hidden_states[layer][0, -1]).softmax(-1) for layer in layers]
        p = output.logits[0, -1].softmax(-1)
        q = max(early, key=lambda q: distance(p, q))
        scores = torch.where(p >= 0.1 * p.max(), p.log() - q.log(), -math.inf)
        text.append(int(LogitsProcessorList(processors)(rows, scores[None])[0].argmax()))
        if text[-1] in eos:
            break
    return tuple(text[len(ids) :])


def generate(folder: Path, spec: str, new: int = 12, prompt: str = PROMPT, **options: Any) -> genlm.Generation:
    return genlm.load(str(folder), device="cpu").generate(prompt, strategy=spec, max_new_tokens=new, **options)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 of eight layers, which has several candidates in each half."""
    return save_gpt2(tmp_path_factory.mktemp("deep") / "deep", n_layer=8, scale=4.0)


@pytest.mark.parametrize(("part", "layers"), [("low", [2]), ("high", [4, 6])])
def test_the_definition(deep: Path, part: str, layers: list[int]) -> None:
    made = generate(deep, f"dola:dola_layers={part}", new=25)
    assert made.completions[0].token_ids == definition(deep, made.prompt_token_ids, [0], 25, layers)
    assert made.completions[0].token_ids != generate(deep, "greedy", new=25).completions[0].token_ids


def test_it_matters_which_layer_is_farthest(deep: Path) -> None:
    """Otherwise the test above would show little."""
    ids = generate(deep, "dola:dola_layers=high", new=25).prompt_token_ids
    assert definition(deep, ids, [0], 25, [4]) != definition(deep, ids, [0], 25, [6])


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(variant: Callable[[str], Path], name: str) -> None:
    made = generate(variant(name), "dola", new=6, prompt="fox")
    eos, layers = [] if name == "no-end" else [0], [0] if name == "untied" else [1]
    assert made.completions[0].token_ids == definition(variant(name), made.prompt_token_ids, eos, 6, layers)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "mistral"])
def test_other_families(tmp_path: Path, family: str) -> None:
    folder = save_other(tmp_path / family, family, num_hidden_layers=6)
    if family == "gpt_neox":
        stock(folder).lm_head = stock(folder).get_output_embeddings()
    made = generate(folder, "dola:dola_layers=high", new=10)
    assert made.completions[0].token_ids == definition(folder, made.prompt_token_ids, [0], 10, [3, 5])


@pytest.mark.parametrize(
    ("field", "processor"),
    [
        ("repetition_penalty=1.2", RepetitionPenaltyLogitsProcessor(1.2)),
        ("no_repeat_ngram_size=2", NoRepeatNGramLogitsProcessor(2)),
    ],
)
def test_penalties_apply_to_the_contrast(deep: Path, field: str, processor: Any) -> None:
    made = generate(deep, f"dola:dola_layers=high,{field}", new=30)
    assert made.completions[0].token_ids == definition(deep, made.prompt_token_ids, [0], 30, [4, 6], [processor])


def test_it_ends_at_an_end_token(tmp_path: Path) -> None:
    ends = list(range(0, 300, 6))
    folder = save_gpt2(tmp_path / "ending", eos_token_id=ends)
    made = generate(folder, "dola", new=40)
    assert made.completions[0].finish_reason == "eos"
    assert made.completions[0].token_ids == definition(folder, made.prompt_token_ids, ends, 40, [1])


@pytest.mark.parametrize(
    ("part", "layers", "tied", "candidates"),
    [
        ("low", 1, True, [0]),
        ("low", 1, False, [0]),
        ("low", 2, True, [1]),
        ("low", 2, False, [0]),
        ("low", 3, True, [2]),
        ("low", 4, True, [2]),
        ("low", 12, True, [2, 4]),
        ("low", 12, False, [0, 2, 4]),
        ("low", 48, True, [2, 4, 6, 8, 10, 12, 14, 16, 18]),
        ("high", 1, True, [0]),
        ("high", 2, True, [1]),
        ("high", 12, True, [6, 8, 10]),
        ("high", 12, False, [6, 8, 10]),
        ("high", 48, True, [28, 30, 32, 34, 36, 38, 40, 42, 44, 46]),
    ],
)
def test_the_candidate_layers(part: str, layers: int, tied: bool, candidates: list[int]) -> None:
    assert candidate_layers(part, layers, tied=tied) == candidates


def test_a_contrast_worked_by_hand() -> None:
    final = torch.tensor([[0.5, 0.4, 0.06, 0.04]]).log()
    near, far = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.8, 0.1, 0.05, 0.05]]).log()
    expected = torch.tensor([[math.log(0.5 / 0.8), math.log(0.4 / 0.1), math.log(0.06 / 0.05), -math.inf]])
    for layers in ([near, far], [far, near], [far]):
        torch.testing.assert_close(contrasted(final, torch.stack(layers)), expected)


def test_a_token_without_probability_adds_no_distance() -> None:
    final = torch.tensor([[0.0, -200.0, 1.0]])
    early = torch.tensor([[0.0, -300.0, 1.0], [1.0, -200.0, 0.0]])
    scores = contrasted(final, early)
    assert scores.argmax() == 2
    assert scores[0, 1] == -math.inf


def test_the_logprob_is_the_models_own(deep: Path) -> None:
    made = generate(deep, "dola:repetition_penalty=1.2", new=20)
    expected = stock_logprob(deep, made.prompt_token_ids, made.completions[0].token_ids)
    assert made.completions[0].logprob == pytest.approx(expected, abs=1e-3)


def test_it_streams_and_stops(deep: Path) -> None:
    lm = genlm.load(str(deep), device="cpu")
    events = list(lm.stream(PROMPT, strategy="dola", max_new_tokens=12))
    pieces = [event.text for event in events if isinstance(event, Piece)]
    assert len(pieces) > 3
    assert isinstance(events[-1], Completion)
    text = events[-1].text
    assert "".join(pieces) == text
    stopped = generate(deep, "dola", stop=text[3:5]).completions[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(text[3:5])], "stop")


def test_there_is_one_completion(deep: Path) -> None:
    with pytest.raises(UsageError, match="dola has one completion, not 2"):
        generate(deep, "dola", num_return_sequences=2)


def test_a_strategy_that_leaves_no_token_is_an_error(tmp_path: Path) -> None:
    folder = save_three_words(tmp_path / "three")
    with pytest.raises(ModelError, match=r"no_repeat_ngram_size=1 leaves no token to choose"):
        generate(folder, "dola:no_repeat_ngram_size=1", new=3, prompt="fox")
