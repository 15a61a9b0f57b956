"""Scores: equal to transformers' cross-entropy on the same windows, for texts of any length and number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpt2 import TEXT, VARIANTS
from support.models import load, save_other, save_three_words
from support.reference import stock

import genlm
from genlm.errors import InputError, ModelError, UsageError
from genlm.formats.texts import Text
from genlm.model.load import Model
from genlm.model.tokenizer import PART
from genlm.records.inspection import ScoredText, Tally
from genlm.tasks.score import Scorer, SlidingWindow

SHORT = "The king had three sons."


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


def score(model: Model, text: str, **options: Any) -> ScoredText:
    (scored,) = Scorer(model, [Text(text)], **options)
    return scored


def reference(folder: Path, ids: list[int], window: int, stride: int) -> list[float]:
    """Return the log-probability of every id but the first by transformers' own loss, window by window."""
    logprobs: list[float] = []
    start = 0
    while len(logprobs) < len(ids) - 1:
        inputs = torch.tensor([ids[start : start + window]])
        # transformers shifts the labels itself, so the last target of the window gets one input more.
        with torch.inference_mode():
            logits = stock(folder)(inputs).logits[0]
        targets = torch.tensor(ids[start + 1 : start + window + 1])
        losses = torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="none")
        logprobs += (-losses[len(logprobs) - start :]).tolist()
        start += stride
    return logprobs


@pytest.mark.parametrize("name", VARIANTS)
def test_a_text_has_the_log_probabilities_of_transformers(name: str, variant: Callable[[str], Path]) -> None:
    folder = variant(name)
    loaded = load(folder)
    ids = [loaded.start_id or 0, *loaded.tokenizer.encode(TEXT)]
    window = loaded.network.context or 0
    for stride in (None, 1 + window // 3, window):
        expected = reference(folder, ids, window, window // 2 if stride is None else stride)
        scored = score(loaded, TEXT, bos=loaded.start_id is not None, stride=stride)
        found = [token.logprob for token in scored.tokens or () if token.logprob is not None]
        assert found == pytest.approx(expected[len(expected) - len(found) :], abs=1e-4)
        assert scored.tally.logprob == pytest.approx(sum(found))


def test_the_mean_negative_log_probability_is_the_loss_of_transformers(tiny: Path, model: Model) -> None:
    ids = torch.tensor([[model.start_id or 0, *model.tokenizer.encode(SHORT)]])
    with torch.inference_mode():
        loss = stock(tiny)(ids, labels=ids).loss.item()
    tally = score(model, SHORT).tally
    assert -tally.logprob / tally.num_scored_tokens == pytest.approx(loss, abs=1e-4)
    assert tally.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


def test_another_architecture_scores_the_same_in_a_batch_as_alone(tmp_path: Path) -> None:
    loaded = load(save_other(tmp_path / "llama", "llama", num_key_value_heads=2))
    texts = [SHORT, "", "a", TEXT, "Hans"]
    together = [scored.tally.logprob for scored in Scorer(loaded, map(Text, texts))]
    assert together == pytest.approx([score(loaded, text).tally.logprob for text in texts], abs=1e-3)


def test_a_score_is_the_logprob_of_the_same_tokens_in_generate() -> None:
    lm = genlm.load("fable", device="cpu")
    generation = lm.generate("The king had three", strategy="top-k:top_k=5", max_new_tokens=20, seed=1)
    completion = generation.completions[0]
    loaded = load(Path("fable"))
    for bos in (False, True):
        scored = score(loaded, generation.prompt + completion.text, bos=bos)
        tokens = (scored.tokens or ())[len(generation.prompt_token_ids) :]
        assert tuple(token.id for token in tokens) == completion.token_ids
        logprob = sum(token.logprob or 0 for token in tokens)
        # `generate` puts no start token before a prompt.
        assert (logprob == pytest.approx(completion.logprob, abs=1e-4)) is not bos


def test_rank_and_entropy_are_those_of_the_forward_pass(model: Model) -> None:
    ids = [model.start_id or 0, *model.tokenizer.encode(SHORT)]
    distributions = model.network.logits_of([ids[:-1]], [0]).log_softmax(-1)
    for token, id, logprobs in zip(score(model, SHORT).tokens or (), ids[1:], distributions, strict=True):
        assert token.id == id
        assert token.rank == sorted(logprobs.tolist(), reverse=True).index(logprobs[id].item()) + 1
        assert token.entropy == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), abs=1e-5)


def test_the_tokens_form_the_text(model: Model) -> None:
    tokens = score(model, TEXT).tokens or ()
    assert b"".join(token.bytes or token.text.encode() for token in tokens) == TEXT.encode()


def test_bits_per_byte_is_over_the_bytes_of_the_text(model: Model) -> None:
    tally = score(model, TEXT).tally
    assert tally.num_bytes == len(TEXT.encode())
    assert tally.bits_per_byte == pytest.approx(-tally.logprob / math.log(2) / len(TEXT.encode()))


def test_without_a_start_token_the_first_token_has_no_score(model: Model) -> None:
    scored = score(model, SHORT, bos=False)
    first, *others = scored.tokens or ()
    assert (first.text, first.logprob, first.rank, first.entropy) == ("The", None, None, None)
    assert scored.tally.num_tokens == len(others) + 1
    assert scored.tally.num_scored_tokens == len(others)
    assert scored.tally.num_scored_bytes == len(SHORT) - len("The")
    assert scored.tally.logprob == pytest.approx(sum(token.logprob or 0 for token in others))


def test_a_model_without_a_start_token_scores_from_the_second_token(tmp_path: Path) -> None:
    loaded = load(save_three_words(tmp_path / "words"))
    tally = score(loaded, "wolf king fox").tally
    assert (tally.num_tokens, tally.num_scored_tokens) == (3, 2)
    assert tally.num_scored_bytes == len("wolf king fox") - len("wolf")
    with pytest.raises(InputError, match="the model has no start token"):
        Scorer(loaded, [], bos=True)


@pytest.mark.parametrize(("text", "bos", "scored"), [("", True, 0), ("", False, 0), ("a", True, 1), ("a", False, 0)])
def test_a_text_without_scored_tokens_has_no_perplexity(model: Model, text: str, bos: bool, scored: int) -> None:
    tally = score(model, text, bos=bos).tally
    assert (tally.num_tokens, tally.num_scored_tokens) == (len(text), scored)
    assert (tally.perplexity is None) == (tally.bits_per_byte is None) == (scored == 0)


def test_texts_of_all_lengths_keep_their_order_and_score_the_same_alone(model: Model) -> None:
    texts = [TEXT[: 7 * n % 90] for n in range(40)] + [TEXT * 3, "", "end"]
    scorer = Scorer(model, map(Text, texts))
    found = list(scorer)
    assert [scored.text for scored in found] == texts
    assert [scored.tally.logprob for scored in found] == pytest.approx(
        [score(model, text).tally.logprob for text in texts], abs=1e-3
    )
    assert scorer.total == sum((scored.tally for scored in found), Tally())


def test_texts_are_read_while_they_are_scored(model: Model) -> None:
    taken = 0

    def endless() -> Iterator[Text]:
        nonlocal taken
        while True:
            taken += 1
            yield Text("once")

    first = next(iter(Scorer(model, endless())))
    assert first.tally.num_tokens > 0
    assert taken <= 300


def test_texts_that_arrive_slowly_are_scored_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(0, 2)
    monkeypatch.setattr("genlm.tasks.score.monotonic", lambda: next(now))
    taken: list[str] = []
    texts = (Text(taken.append(word) or word) for word in ("fox", "wolf", "king"))  # type: ignore[func-returns-value]
    for number, scored in enumerate(Scorer(model, texts), 1):
        assert len(taken) == number
        assert scored.text == taken[-1]


def test_a_long_text_encoded_in_parts_has_the_tokens_of_the_whole_text(model: Model) -> None:
    text = TEXT + "\n"
    text *= 1 + PART // len(text)
    scored = score(model, text, stride=64)
    assert [token.id for token in scored.tokens or ()] == model.tokenizer.encode(text)


def test_tokens_are_kept_only_on_request(model: Model) -> None:
    scored = score(model, TEXT, keep_tokens=False)
    assert scored.tokens is None
    assert scored.tally == score(model, TEXT).tally


def test_a_smaller_stride_gives_every_token_more_context() -> None:
    def least_before(stride: int) -> int:
        windows = list(SlidingWindow(8, stride).windows([list(range(50))]))
        return min(window.skip for window in windows[1:])

    assert [least_before(stride) for stride in (8, 4, 1)] == [0, 4, 7]


@pytest.mark.parametrize("length", range(30))
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (5, 1), (5, 3), (5, 5), (11, 5)])
def test_windows_score_every_token_but_the_first_exactly_once(length: int, size: int, stride: int) -> None:
    ids = list(range(length))
    windows = list(SlidingWindow(size, stride).windows([ids[:7], ids[7:]]))
    assert [target for window in windows for target in window.targets] == ids[1:]
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    for window in windows:
        assert len(window.inputs) <= size
        assert len(window.inputs) - window.skip == len(window.targets) or not window.targets
        # The target of an input is the token after it.
        assert [token + 1 for token in window.inputs[window.skip :]] == list(window.targets)


@pytest.mark.parametrize("stride", [0, -3, 65])
def test_a_stride_outside_the_context_is_refused(model: Model, stride: int) -> None:
    with pytest.raises(UsageError, match="from 1 to the model's context of 64"):
        Scorer(model, [], stride=stride)


def test_logits_that_are_not_numbers_are_an_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        model.network, "logits_of", lambda rows, skips: torch.full((sum(map(len, rows)), 300), torch.nan)
    )
    with pytest.raises(ModelError, match="not numbers"):
        score(model, SHORT)


def test_a_perplexity_beyond_a_float_is_none() -> None:
    assert Tally(num_scored_tokens=1, logprob=-1e6).perplexity is None
