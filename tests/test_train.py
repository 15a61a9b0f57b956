"""Training from scratch: the loop learns, evaluates as defined, and leaves a folder that anything loads."""

from __future__ import annotations

import json
import math
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import genlm
from genlm.errors import InputError
from genlm.tasks.train import Report, Schedule, Shape, shuffled_windows, sliding_nats, train

SHAPE = Shape(n_layer=2, n_embd=32, n_head=2, n_positions=16, vocab_size=280)
SCHEDULE = Schedule(max_steps=60, batch_size=4, learning_rate=1e-2, warmup_steps=5, eval_every=30, bf16=False)
STORY = "The fox went to the wood. The king went to the sea. The fox met the king by the sea.\n" * 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Report]]:
    """A finished training run: its folder and its reports."""
    root = tmp_path_factory.mktemp("train")
    (root / "corpus.txt").write_text(STORY)
    (root / "valid.txt").write_text(STORY[:500])
    reports = list(train([root / "corpus.txt"], [root / "valid.txt"], root / "out", SHAPE, SCHEDULE))
    return root / "out", reports


def test_the_loss_falls(run: tuple[Path, list[Report]]) -> None:
    _, reports = run
    assert reports[0].loss > 2
    assert reports[-1].loss < 0.5


def test_the_log_holds_every_report(run: tuple[Path, list[Report]]) -> None:
    folder, reports = run
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [report.step for report in reports]
    assert lines[-1]["valid_bits_per_byte"] == reports[-1].valid_bits_per_byte


def test_the_folder_continues_the_story(run: tuple[Path, list[Report]]) -> None:
    text = genlm.load(str(run[0])).generate("The fox went", strategy="greedy", max_new_tokens=3).completions[0].text
    assert text.startswith(" to the")


def test_the_folder_loads_in_stock_transformers_with_the_same_logits(run: tuple[Path, list[Report]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = run
    ids = AutoTokenizer.from_pretrained(folder)("The king went")["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = stock(torch.tensor([ids])).logits[0]
    lean = genlm.load(str(folder))
    assert lean._model.tokenizer.encode("The king went") == ids
    torch.testing.assert_close(lean._model.network.logits(ids), expected, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_losses(run: tuple[Path, list[Report]], tmp_path: Path) -> None:
    corpus = run[0].parent / "corpus.txt"
    short = Schedule(**{**SCHEDULE.__dict__, "max_steps": 10, "eval_every": 10})
    losses = [
        [report.loss for report in train([corpus], [corpus], tmp_path / name, SHAPE, short)] for name in ("a", "b")
    ]
    assert losses[0] == losses[1]


def test_bits_per_byte_and_loss_say_the_same_of_the_validation_text(run: tuple[Path, list[Report]]) -> None:
    folder, reports = run
    valid = (folder.parent / "valid.txt").read_text()
    tokens = len(genlm.load(str(folder))._model.tokenizer.encode(valid))
    last = reports[-1]
    assert last.valid_loss is not None
    assert last.valid_bits_per_byte == pytest.approx(last.valid_loss * tokens / math.log(2) / len(valid), rel=1e-6)


class Bigram(torch.nn.Module):
    """A model whose loss can be worked out by hand: the next token depends on the last alone."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = torch.randn(vocab, vocab)

    def forward(self, ids: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.table[ids]})


@pytest.mark.parametrize("length", [2, 8, 9, 10, 12, 13, 16, 17, 50])
def test_a_sliding_window_counts_every_token_but_the_first_once(length: int) -> None:
    model, ids = Bigram(7), torch.arange(length) % 7
    expected = -model.table.log_softmax(-1)[ids[:-1], ids[1:]].sum().item()
    assert sliding_nats(model, ids, context=8, stride=4, batch_size=2) == pytest.approx(expected, rel=1e-5)


def test_an_epoch_shows_every_window_once() -> None:
    ids = torch.arange(103)
    windows = torch.cat(list(islice(shuffled_windows(ids, context=10, batch_size=3, seed=0), 3)))
    starts = sorted(windows[:, 0].tolist())
    assert windows.shape == (9, 11)
    assert [b - a for a, b in pairwise(starts)] == [10] * 8


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    schedule = Schedule(max_steps=100, warmup_steps=10, learning_rate=1.0)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(10) == pytest.approx(1.0)
    assert schedule.rate(100) == pytest.approx(0.01)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match="n_embd=32 cannot be divided among n_head=5"):
        Shape(n_embd=32, n_head=5)


def test_a_corpus_shorter_than_one_context_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("fox")
    with pytest.raises(InputError, match="fewer than one context"):
        next(train([tmp_path / "short.txt"], [tmp_path / "short.txt"], tmp_path / "out", SHAPE, SCHEDULE))
