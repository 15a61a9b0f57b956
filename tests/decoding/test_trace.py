"""The trace of a generation: how likely the model found every token, under every strategy."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.driving import FakeTerminal, call, call_in_terminal
from support.models import load

import genlm
from genlm.api import LanguageModel
from genlm.decoding.completion import Alternative, Completion, TracedToken
from genlm.decoding.kinds import KINDS
from genlm.decoding.processors import keep_top_k
from genlm.decoding.trace import trace_tokens
from genlm.model.load import Model
from genlm.model.pieces import Pieces
from genlm.views.generation import BUCKETS, STYLES, TraceView, as_json, bucket, parts

PROMPT = "Once upon a time"
KEYS = ["text", "id", "logprob", "probability", "rank", "entropy", "candidates", "mass", "alternatives"]


@pytest.fixture(scope="module")
def lm(tiny: Path) -> LanguageModel:
    return genlm.load(str(tiny), device="cpu")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny)


@pytest.fixture(scope="module")
def pieces(model: Model) -> Pieces:
    return Pieces(model.tokenizer)


def test_a_trace_by_hand(pieces: Pieces) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125]]).log()
    (traced,) = trace_tokens(logits, keep_top_k(logits, [], 3), torch.tensor([1]), pieces)
    assert traced.id == 1
    assert traced.rank == 2
    assert traced.probability == pytest.approx(0.25)
    assert traced.logprob == pytest.approx(math.log(0.25))
    assert traced.entropy == pytest.approx(1.9375 * math.log(2))
    assert (traced.candidates, traced.mass) == (3, pytest.approx(0.875))
    assert [each.id for each in traced.alternatives] == [0, 1, 2, 3, 4]
    assert [each.probability for each in traced.alternatives] == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.03125])
    assert traced.text == pieces.text_of(1)


def test_a_small_vocabulary_has_fewer_alternatives(pieces: Pieces) -> None:
    logits = torch.zeros(1, 3)
    (traced,) = trace_tokens(logits, logits, torch.tensor([2]), pieces)
    assert len(traced.alternatives) == traced.candidates == 3
    assert (traced.rank, traced.mass) == (1, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_equals_one_forward_pass_over_the_text(lm: LanguageModel, model: Model, kind: str) -> None:
    made = lm.generate(PROMPT, strategy=kind, max_new_tokens=12, seed=3, trace=True)
    for completion in made.completions:
        traced = trace_of(completion)
        assert [token.id for token in traced] == list(completion.token_ids)
        assert sum(token.logprob for token in traced) == pytest.approx(completion.logprob, abs=1e-3)
        ids = [*made.prompt_token_ids, *completion.token_ids]
        logprobs = model.network.logits(ids[:-1])[len(made.prompt_token_ids) - 1 :].log_softmax(-1)
        for token, row in zip(traced, logprobs, strict=True):
            assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-3)
            assert token.probability == pytest.approx(math.exp(token.logprob), rel=1e-4)
            assert token.entropy == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-3)
            assert abs(token.rank - 1 - int((row > row[token.id]).sum())) <= 1
            best = [each.probability for each in token.alternatives]
            assert best == sorted(best, reverse=True)
            assert best == pytest.approx(row.exp().topk(5).values.tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "candidates"),
    [("sample", 300), ("top-k:top_k=7", 7), ("greedy", 300), ("top-p:top_p=0.9,top_k=4", 4)],
)
def test_candidates_are_the_tokens_that_the_processors_left(lm: LanguageModel, spec: str, candidates: int) -> None:
    made = lm.generate(PROMPT, strategy=spec, max_new_tokens=8, seed=3, trace=True)
    for token in trace_of(made.completions[0]):
        if spec.startswith("top-p"):
            assert 1 <= token.candidates <= candidates
        else:
            assert token.candidates == candidates
        assert token.mass >= token.probability - 1e-6
        assert token.mass == pytest.approx(1.0) or token.candidates < 300


def test_beams_do_not_count_banned_ngrams_as_candidates(lm: LanguageModel) -> None:
    made = lm.generate(PROMPT, strategy="beam:no_repeat_ngram_size=1", max_new_tokens=6, trace=True)
    seen = len(set(made.prompt_token_ids))
    found = [token.candidates for token in trace_of(made.completions[0])]
    assert found == [300 - seen - step for step in range(len(found))]


def test_the_logprobs_of_the_tokens_sum_to_that_of_the_completion(tiny: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        lm = genlm.load(str(tiny), device="cpu", dtype=dtype)  # type: ignore[arg-type]
        made = lm.generate(PROMPT, strategy="top-p", max_new_tokens=20, seed=1, trace=True, num_return_sequences=3)
        for completion in made.completions:
            assert sum(token.logprob for token in trace_of(completion)) == pytest.approx(completion.logprob, abs=1e-9)


@pytest.mark.parametrize("spec", ["greedy", "beam", "top-p"])
def test_a_trace_changes_nothing_else(lm: LanguageModel, spec: str) -> None:
    plain = lm.generate(PROMPT, strategy=spec, max_new_tokens=12, seed=2)
    traced = lm.generate(PROMPT, strategy=spec, max_new_tokens=12, seed=2, trace=True)
    assert plain.completions[0].trace is None
    assert plain.completions[0].text == traced.completions[0].text
    assert plain.completions[0].token_ids == traced.completions[0].token_ids
    assert "trace" not in json.loads(as_json(plain))["completions"][0]


def test_the_json_keys_of_a_token(lm: LanguageModel) -> None:
    made = lm.generate(PROMPT, strategy="top-p", max_new_tokens=30, seed=2, trace=True)
    (completion,) = json.loads(as_json(made))["completions"]
    for token in completion["trace"]:
        assert [key for key in token if key != "bytes"] == KEYS
        # Part of a character cannot be shown as text.
        assert ("bytes" in token) == ("\ufffd" in token["text"])
        for alternative in token["alternatives"]:
            assert [key for key in alternative if key != "bytes"] == ["id", "text", "probability"]


def trace_of(completion: Completion) -> tuple[TracedToken, ...]:
    assert completion.trace is not None
    return completion.trace


# How a trace is shown.


def token(text: str, probability: float = 0.3, split: bytes | None = None) -> TracedToken:
    return TracedToken(
        text, 5, math.log(probability), probability, 1, 1.0, 3, 0.9, (Alternative(5, text, probability),), split
    )


def completion(tokens: Sequence[TracedToken], text: str, reason: str = "length") -> Completion:
    return Completion(0, text, (5,) * len(tokens), reason, -1.0, tuple(tokens))  # type: ignore[arg-type]


def shown(*completions: Completion) -> str:
    stream = FakeTerminal()
    view = TraceView(stream, "Once", 1, echo=True)
    for each in completions:
        view.show(each)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("probability", "expected"), [(1.0, 0), (0.5, 0), (0.49, 1), (0.1, 1), (0.01, 2), (0.009, 3), (0.0, 3)]
)
def test_a_bucket_includes_its_bound(probability: float, expected: int) -> None:
    assert bucket(probability) == expected
    assert len(STYLES) == len(BUCKETS)


def test_tokens_beyond_the_text_are_marked() -> None:
    cut = completion([token(" a"), token("b STOP c")], " ab ", "stop")
    assert [(text, within) for text, _, within in parts(cut)] == [(" a", True), ("b ", True), ("STOP c", False)]
    ended = completion([token(" a"), token("<|endoftext|>")], " a", "eos")
    assert [(text, within) for text, _, within in parts(ended)] == [(" a", True), ("<|endoftext|>", False)]


def test_the_parts_of_a_character_are_joined() -> None:
    halves = [token("\ufffd", split=b"\xe7\x8b"), token("\ufffd", split=b"\x90")]
    assert [text for text, _, _ in parts(completion(halves, "狐"))] == ["狐"]


def test_a_terminal_gets_colours_that_text_cannot_forge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = shown(completion([token(" [red]\x1b[5m", 0.6), token("狐", 0.001)], " [red]\x1b[5m狐"))
    assert "\x1b[32m [red]␛[5m\x1b[0m" in text
    assert "\x1b[7;35m狐\x1b[0m" in text


def test_rare_tokens_are_marked_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(completion([token(" a", 0.6), token(" b", 0.02), token(" c", 0.001)], " a b c"))
    assert " a\x1b[4m b\x1b[0m\x1b[7m c\x1b[0m" in text


def test_a_pipe_gets_plain_text(tiny: Path, tmp_path: Path) -> None:
    shared = ("generate", PROMPT, "-m", tiny, "--seed", "4", "--max-new-tokens", "9")
    page = tmp_path / "page.html"
    plain, traced = call(*shared), call(*shared, "--trace", "--html", page)
    assert traced.code == 0
    assert traced.out == plain.out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_terminal_shows_the_legend_below_the_text(tiny: Path) -> None:
    arguments = ("-s", "greedy", "--max-new-tokens", "5", "--trace")
    terminal = call_in_terminal("generate", PROMPT, "-m", tiny, *arguments)
    assert terminal.code == 0
    text, legend = terminal.shown.split(PROMPT.encode())[1].split(b"probability", 1)
    assert b"\x1b[" in text
    assert b"50 % and more" in legend
