"""Training: what is learned, kept and gone on with."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from genlm.records import TrainReport, TrainResult
from genlm.tasks.train import start
from genlm.tasks.train.loop import Training
from genlm.tasks.train.settings import Recipe, Shape

SHAPE = Shape(n_layer=2, n_embd=32, n_head=2, n_positions=16, vocab_size=280)
RECIPE = Recipe(max_steps=24, batch_size=4, learning_rate=1e-2, warmup_steps=5, eval_every=8, save_every=5, dropout=0.1)
STORY = "The fox went to the wood. The king went to the sea. The fox met the king by the sea.\n" * 30


@pytest.fixture
def job(tmp_path: Path) -> start.Job:
    (tmp_path / "corpus.txt").write_text(STORY)
    (tmp_path / "valid.txt").write_text(STORY[:500])
    return start.Job([str(tmp_path / "corpus.txt")], [str(tmp_path / "valid.txt")], SHAPE, RECIPE)


def finish(training: Training) -> list[TrainReport | TrainResult]:
    return list(training.run())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_was_cut_off_comes_to_the_same_weights(job: start.Job, optimizer: str, tmp_path: Path) -> None:
    job = start.Job(job.corpus, job.valid, SHAPE, Recipe(**{**vars(RECIPE), "optimizer": optimizer}))
    whole = finish(start.begin(job, tmp_path / "whole"))
    cut = start.begin(job, tmp_path / "cut").run()
    assert len(list(islice(cut, 2))) == 2
    cut.close()
    rest = finish(start.resume(tmp_path / "cut"))
    assert isinstance(rest[-1], TrainResult)
    assert rest[-1].valid_loss == whole[-1].valid_loss  # type: ignore[union-attr]
    assert (tmp_path / "cut/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert steps == [report.step for report in whole]


def test_the_loss_falls(job: start.Job, tmp_path: Path) -> None:
    reports = finish(start.begin(job, tmp_path / "out"))
    assert reports[0].loss > 3  # type: ignore[union-attr]
    assert reports[-2].loss < 2.5  # type: ignore[union-attr]
