"""The training loop: its steps, what a model learns, resuming, and the folder of a run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from support.models import save_other
from support.training import LIKES

import genlm
from genlm.errors import InputError, ModelError, OutputError, UsageError
from genlm.model.source import ModelFolder
from genlm.records.train import TrainReport, TrainResult
from genlm.tasks.train import loop
from genlm.tasks.train.data import Batches, Documents, Rows, TextSource, Windows
from genlm.tasks.train.folder import check_free, check_space
from genlm.tasks.train.loop import TrainData, Trainer
from genlm.tasks.train.model import new_gpt2
from genlm.tasks.train.settings import Recipe, Shape
from genlm.tasks.train.start import TrainRequest, begin, resume

SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab_size": 280}
RECIPE = {"max_steps": 24, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 5, "eval_every": 8, "dropout": 0.1}
STORY = "The fox went to the wood. The king went to the sea. The fox met the king by the sea.\n" * 150


def ask(folder: Path, corpus: str = STORY, valid: str | None = STORY[:500], **settings: Any) -> TrainRequest:
    (folder / "corpus.txt").write_text(corpus)
    if valid is not None:
        (folder / "valid.txt").write_text(valid)
    source = TextSource((str(folder / "corpus.txt"),), () if valid is None else (str(folder / "valid.txt"),))
    recipe = {**RECIPE, **settings.pop("recipe", {})}
    if valid is None:
        del recipe["eval_every"]
    return TrainRequest(source, shape=SHAPE, recipe=recipe, **settings)


def finish(trainer: Trainer) -> tuple[list[TrainReport], TrainResult]:
    *reports, result = trainer.run()
    assert isinstance(result, TrainResult)
    return [report for report in reports if isinstance(report, TrainReport)], result


def run(request: TrainRequest, out: Path) -> tuple[list[TrainReport], TrainResult]:
    return finish(begin(request, out).trainer)


def bare(recipe: Recipe, out: Path, *, seed: int = 1) -> tuple[Trainer, Any, Windows]:
    """Return a trainer of a tiny model without texts, the model, and windows over some ids."""
    torch.manual_seed(seed)
    model = new_gpt2(Shape(2, 16, 2, 8, 20), 20, 0).train()
    rows = Windows(torch.arange(200) * 7 % 20, 8, recipe.seed)
    out.mkdir(exist_ok=True)
    return Trainer(model, TrainData(rows, None, 8, 1.0), recipe, out), model, rows


# Steps.


def plain_losses(model: Any, optimizer: Any, batches: Sequence[tuple[Any, Any]], recipe: Recipe) -> list[float]:
    losses = []
    for step, (inputs, targets) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step, step / len(batches))
        loss = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    recipe = Recipe(max_steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2, report_every=1, max_grad_norm=0.5)
    trainer, trained, rows = bare(recipe, tmp_path)
    _, model, _ = bare(recipe, tmp_path)
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    batches = Batches(rows, 4)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    expected = plain_losses(model, optimizer, [batches.take() for _ in range(6)], recipe)
    assert [report.loss for report in finish(trainer)[0]] == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


EVEN = Windows(torch.arange(200) * 7 % 20, 8, seed=0)
UNEVEN = Documents([[5, 6, 7, 8], [9]], end=0, context=8, seed=0)


@pytest.mark.parametrize("rows", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_accumulated_batches_are_one_larger_batch(rows: Rows, tmp_path: Path) -> None:
    trainer, model, _ = bare(Recipe(max_steps=1), tmp_path)
    losses, gradients = [], []
    for size in (4, 1):
        batches = Batches(rows, size)
        model.zero_grad()
        losses.append(trainer.add_gradient([batches.take() for _ in range(4 // size)])[0].item())
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for together, apart in zip(*gradients, strict=True):
        torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)


def test_muon_updates_only_the_matrices_of_the_blocks(tmp_path: Path) -> None:
    trainer, model, _ = bare(Recipe(max_steps=1, optimizer="muon", weight_decay=0), tmp_path)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.step(1e-2)
    for name, weight in model.named_parameters():
        change = weight.detach() - before[name]
        if weight.dim() == 2 and ".h." in name:
            # An orthogonal matrix whose root mean square is scaled to about 0.2.
            assert change.pow(2).mean().sqrt() == pytest.approx(0.2 * 1e-2, rel=0.35), name
        elif name.endswith("wpe.weight"):
            assert change[:8].abs().max() == pytest.approx(1e-2, rel=1e-2)


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    recipe = Recipe(max_steps=100, warmup_steps=10, learning_rate=1.0)
    assert recipe.rate(0, 0.0) == pytest.approx(0.1)
    assert recipe.rate(9, 0.0) == pytest.approx(1.0)
    assert recipe.rate(50, 0.5) == pytest.approx(0.505)
    assert recipe.rate(100, 1.0) == pytest.approx(0.01)


def test_progress_is_that_of_steps_or_minutes_whichever_is_further() -> None:
    recipe = Recipe(max_steps=100, max_minutes=2)
    assert recipe.progress(50, 30) == 0.5
    assert recipe.progress(10, 90) == 0.75
    assert recipe.progress(10, 300) == 1
    assert Recipe(max_steps=None, max_minutes=1).progress(10**6, 6) == pytest.approx(0.1)


# Results.

Story: TypeAlias = tuple[Path, list[TrainReport], TrainResult]


def test_the_loss_on_a_tiny_corpus_reaches_its_entropy(tmp_path: Path) -> None:
    # The sentences differ in one token; each occurs with and without an end of text before it.
    tokens = [8, 8, 7]
    entropy = 6 * math.log(3) / (2 * sum(tokens) - 3)
    recipe = {"max_steps": 250, "dropout": 0.0, "batch_size": 64}
    reports, _ = run(ask(tmp_path, LIKES, None, tokenizer="char", recipe=recipe), tmp_path / "out")
    assert min(report.loss for report in reports) >= entropy
    assert reports[-1].loss == pytest.approx(entropy, rel=0.03)
    found = genlm.load(str(tmp_path / "out")).next("我喜欢", top=3)
    assert {candidate.text for candidate in found.candidates} == {"看", "听", "阅"}
    assert [candidate.probability for candidate in found.candidates] == pytest.approx([1 / 3] * 3, abs=0.02)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The folder, the reports and the result of a finished run."""
    root = tmp_path_factory.mktemp("story")
    return (root / "out", *run(ask(root, recipe={"max_steps": 60, "dropout": 0.0}), root / "out"))


def test_the_loss_falls(story: Story) -> None:
    _, reports, result = story
    assert reports[0].loss > 3
    assert reports[-1].loss < 0.7
    assert result.valid_loss is not None
    assert result.valid_loss < 0.7


def test_the_log_has_every_report(story: Story) -> None:
    folder, reports, result = story
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*(report.step for report in reports), result.step]
    assert lines[-1]["valid_bits_per_byte"] == result.valid_bits_per_byte
    assert lines[-2]["sample"] == reports[-1].sample


def test_the_folder_loads_in_stock_transformers_with_the_same_logits(story: Story) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(story[0])("The king went")["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(story[0], dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = stock(torch.tensor([ids])).logits[0]
    lean = genlm.load(str(story[0]))
    assert lean._model.tokenizer.encode("The king went") == ids
    torch.testing.assert_close(lean._model.network.logits_of([ids], [0]), expected, atol=1e-4, rtol=1e-4)
    assert stock.generation_config.eos_token_id == 0


def test_the_folder_continues_the_story(story: Story) -> None:
    completion = genlm.load(str(story[0])).generate("The fox went", strategy="greedy", max_new_tokens=3)
    assert completion.completions[0].text.startswith(" to the")


def test_the_final_loss_is_that_of_genlm_score(story: Story) -> None:
    folder, _, result = story
    text = (folder.parent / "valid.txt").read_text()
    tally = genlm.load(str(folder)).score(text + "<|endoftext|>", bos=True).tally
    assert result.valid_loss == pytest.approx(-tally.logprob / tally.num_scored_tokens, rel=1e-4)
    assert result.valid_bits_per_byte == pytest.approx(-tally.logprob / math.log(2) / len(text), rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_saved_in_the_requested_dtype(dtype: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    request = ask(tmp_path, recipe={"max_steps": 2}, save_dtype=dtype)
    run(request, tmp_path / "out")
    weights = load_file(tmp_path / "out/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, dtype)}
    assert "lm_head.weight" not in weights
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype


def test_training_in_bfloat16_has_nearly_the_same_losses(tmp_path: Path) -> None:
    losses = {
        dtype: run(ask(tmp_path, recipe={"max_steps": 20, "report_every": 1}, dtype=dtype), tmp_path / dtype)[0]
        for dtype in ("float32", "bfloat16")
    }
    pairs = [(a.loss, b.loss) for a, b in zip(losses["float32"], losses["bfloat16"], strict=True)]
    assert pairs[0][0] != pairs[0][1]
    assert [b for _, b in pairs] == pytest.approx([a for a, _ in pairs], rel=0.05)


def test_continuing_a_model_lowers_its_loss(story: Story, tmp_path: Path) -> None:
    other = "The wolf sat by the well. The wolf ate the king.\n" * 40
    source = ask(tmp_path, other, other[:490]).source
    request = TrainRequest(source, base=str(story[0]), recipe={"max_steps": 20, "learning_rate": 3e-3, "eval_every": 4})
    reports, result = run(request, tmp_path / "out")
    losses = [report.valid_loss for report in reports if report.valid_loss is not None]
    assert result.valid_loss is not None
    assert result.valid_loss < 0.75 * losses[0]
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (story[0] / "tokenizer.json").read_bytes()


def test_a_hub_model_is_always_taken_from_the_requested_commit(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, revision: str | None, *_: Any) -> ModelFolder:
        asked.append((name, revision))
        return ModelFolder(name, "hub", story[0], "c0ffee")

    monkeypatch.setattr("genlm.model.source.fetch_from_hub", fetch)
    request = TrainRequest(
        ask(tmp_path).source, base="some/model", revision="v1", recipe={"max_steps": 2, "eval_every": 1}
    )
    stopped = begin(request, tmp_path / "out").trainer
    list(stopped.run(lambda: True))
    assert asked[0] == ("some/model", "v1")
    assert {*asked[1:]} == {("some/model", "c0ffee")}
    del asked[:]
    finish(resume(tmp_path / "out").trainer)
    assert {*asked} == {("some/model", "c0ffee")}


def test_a_revision_needs_a_hub_model(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a revision needs a base model"):
        begin(replace(ask(tmp_path), revision="v1"), tmp_path / "out")
    with pytest.raises(ModelError, match="has no revisions"):
        begin(TrainRequest(ask(tmp_path).source, base=str(tiny), revision="v1"), tmp_path / "out")


def test_a_model_of_another_family_can_be_continued(tmp_path: Path) -> None:
    save_other(tmp_path / "llama", "llama")
    recipe = {"max_steps": 12, "learning_rate": 1e-2, "eval_every": 4}
    request = TrainRequest(ask(tmp_path).source, base=str(tmp_path / "llama"), recipe=recipe)
    reports, result = run(request, tmp_path / "out")
    assert result.valid_loss is not None
    assert result.valid_loss < reports[0].valid_loss  # type: ignore[operator]
    assert genlm.load(str(tmp_path / "out")).info.parameters > 0
    with pytest.raises(UsageError, match="LlamaForCausalLM has no dropout to set"):
        begin(replace(request, recipe={**recipe, "dropout": 0.1}), tmp_path / "dropped")


def test_a_continued_model_starts_with_a_low_loss(story: Story, tmp_path: Path) -> None:
    request = TrainRequest(ask(tmp_path).source, base=str(story[0]), recipe={"max_steps": 1, "report_every": 1})
    assert run(request, tmp_path / "out")[0][0].loss < 0.8


def test_the_best_weights_are_kept_and_the_run_ends_without_improvement(tmp_path: Path) -> None:
    other = "Once there were wolves, and nothing else was there.\n" * 9
    recipe = {"max_steps": 400, "eval_every": 5, "patience": 3, "learning_rate": 3e-2, "dropout": 0.0}
    reports, result = run(ask(tmp_path, valid=other, recipe=recipe), tmp_path / "out")
    losses = {report.step: report.valid_loss for report in reports if report.valid_loss is not None}
    assert result.stopped_early
    assert result.best_step == min(losses, key=lambda step: losses[step])
    assert result.step == result.best_step + 15 < 400
    # Each token has at least half a context before it, so the loss is a little lower than the estimate.
    assert result.valid_loss == pytest.approx(losses[result.best_step], rel=0.15)


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the loss is not a number at step"):
        run(ask(tmp_path, recipe={"learning_rate": 1e30, "max_grad_norm": 1e30}), tmp_path / "out")


# Resuming.


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_reaches_the_same_weights(optimizer: str, tmp_path: Path) -> None:
    request = ask(tmp_path, recipe={"optimizer": optimizer, "save_every": 5, "accumulate": 2, "seed": 3})
    reports, result = run(request, tmp_path / "whole")
    cut = begin(request, tmp_path / "cut").trainer.run()
    assert len(list(islice(cut, 3))) == 3
    cut.close()  # type: ignore[attr-defined]
    _, again = finish(resume(tmp_path / "cut").trainer)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert again.valid_loss == result.valid_loss
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert steps == [*(report.step for report in reports), 24]


def test_a_stopped_run_continues_from_that_step(tmp_path: Path) -> None:
    request = ask(tmp_path, valid=None)
    run(request, tmp_path / "whole")
    trainer = begin(request, tmp_path / "cut").trainer
    answers = iter([False] * 6 + [True])
    assert [report.step for report in trainer.run(lambda: next(answers))] == [7]
    assert (trainer.state.step, trainer.is_finished) == (7, False)
    later = resume(tmp_path / "cut").trainer
    assert later.state.step == 7
    finish(later)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


class Killed(BaseException):
    """Simulates a kill."""


@pytest.mark.parametrize("write", ["save_model", "save_checkpoint"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_that_is_killed_during_a_write_has_the_same_result(
    write: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(tmp_path, recipe={"save_every": 5})
    reports, result = run(request, tmp_path / "whole")
    assert sum(report.valid_loss is not None for report in reports) == 3
    calls = count(1)
    real = getattr(loop, write)

    def killed(*arguments: Any) -> None:
        if next(calls) == at:
            raise Killed
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(f"genlm.tasks.train.loop.{write}", killed)
        with pytest.raises(Killed):
            run(request, tmp_path / "cut")
    _, again = finish(resume(tmp_path / "cut").trainer)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert (again.best_step, again.valid_loss) == (result.best_step, result.valid_loss)


def test_the_weights_in_the_folder_are_the_best_ones_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the checkpoint, the model is worse the second time than it was before the kill.
    losses = iter([3.0, 2.0, 4.0, 5.0])
    monkeypatch.setattr("genlm.tasks.train.loop.estimate_loss", lambda *_: next(losses))
    first = begin(ask(tmp_path), tmp_path / "out").trainer.run()
    for report in first:
        if report.step == 16:
            break
    first.close()  # type: ignore[attr-defined]
    kept = weights(tmp_path / "out")
    later = resume(tmp_path / "out").trainer
    assert (later.state.step, later.state.best_step, later.state.best_loss) == (8, 8, 3.0)
    _, result = finish(later)
    assert result.best_step == 8
    assert weights(tmp_path / "out") == kept


def test_slow_steps_are_saved_after_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genlm.tasks.train.loop.MOST_UNSAVED_S", 0.0)
    reports = begin(ask(tmp_path, recipe={"report_every": 2}), tmp_path / "out").trainer.run()
    assert len(list(islice(reports, 2))) == 2
    reports.close()  # type: ignore[attr-defined]
    assert resume(tmp_path / "out").trainer.state.step == 3


def test_a_run_whose_time_ends_during_a_report_does_one_more_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each reading of the clock adds a second: at the start, after each step, and at a report.
    monkeypatch.setattr("genlm.tasks.train.loop.time.perf_counter", count().__next__)
    recipe = {"max_steps": None, "max_minutes": 3.5 / 60, "report_every": 3}
    reports, result = run(ask(tmp_path, recipe=recipe), tmp_path / "out")
    assert [(report.step, report.valid_loss is not None) for report in reports] == [(3, False), (4, True)]
    assert result.best_step == 4


def test_an_incomplete_line_of_the_log_is_dropped(tmp_path: Path) -> None:
    trainer = begin(ask(tmp_path), tmp_path / "out").trainer
    answers = iter([False] * 6 + [True])
    list(trainer.run(lambda: next(answers)))
    log = tmp_path / "out/log.jsonl"
    with log.open("a") as stream:
        stream.write('{"step": 7, "lo')
    finish(resume(tmp_path / "out").trainer)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [7, 8, 10, 16, 20, 24, 24]


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    request = ask(tmp_path)
    begin(request, tmp_path / "cut")
    run(request, tmp_path / "whole")
    finish(resume(tmp_path / "cut", request).trainer)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(ask(tmp_path, recipe={"max_steps": 1, "seed": seed}), tmp_path / str(seed))
    assert weights(tmp_path / "0") != weights(tmp_path / "1")


def test_a_finished_run_cannot_be_resumed_and_has_no_checkpoint(story: Story) -> None:
    for name in ("README.md", "loss.png"):
        assert resume(story[0]).trainer.is_finished
        (story[0] / name).touch()
    with pytest.raises(InputError, match="has finished"):
        resume(story[0])
    assert not list(story[0].glob("checkpoint*"))


def test_only_the_same_run_on_the_same_texts_can_be_resumed(tmp_path: Path) -> None:
    begin(ask(tmp_path), tmp_path / "out")
    with pytest.raises(UsageError, match="started with n_layer 2, not 3"):
        resume(tmp_path / "out", replace(ask(tmp_path), shape={**SHAPE, "n_layer": 3}))
    ask(tmp_path, corpus=STORY + "The end.\n")
    with pytest.raises(InputError, match="the texts have changed"):
        resume(tmp_path / "out")
    with pytest.raises(InputError, match="the texts have changed"):
        resume(tmp_path / "out", ask(tmp_path, corpus=STORY + "The end.\n"))


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no training\.json"):
        resume(tmp_path)
    (tmp_path / "training.json").write_text('{"source": 3}')
    with pytest.raises(InputError, match=r"training\.json: damaged"):
        resume(tmp_path)


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path) -> None:
    begin(ask(tmp_path), tmp_path / "out")
    (tmp_path / "out/checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: damaged"):
        resume(tmp_path / "out")


# Folders.


def test_a_run_is_overwritten_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/training.json").write_text("{}")
    with pytest.raises(OutputError, match="already exists and is not empty"):
        begin(ask(tmp_path), tmp_path / "out")
    with pytest.raises(OutputError, match="is a file"):
        begin(ask(tmp_path), tmp_path / "corpus.txt")


def test_a_folder_without_a_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/README.md").write_text("mine")
    with pytest.raises(OutputError, match="holds no run of genlm train"):
        begin(ask(tmp_path), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/README.md").read_text() == "mine"


def test_overwriting_keeps_files_that_no_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("mine.md", "training.json", "checkpoint.safetensors", "log.jsonl", "README.md"):
        (tmp_path / "out" / name).write_text("before")
    begin(ask(tmp_path), tmp_path / "out", overwrite=True)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"mine.md", "training.json", "tokenizer.json", "tokenizer_config.json"}


def test_the_base_model_is_never_overwritten(tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "training.json").write_text("{}")
    with pytest.raises(OutputError, match="is the base model itself"):
        begin(TrainRequest(ask(tmp_path).source, base=str(model)), model, overwrite=True)


def test_a_full_disk_is_an_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**4))
    with pytest.raises(OutputError, match=r"out: not enough disk space: the run needs 1,118 kB, and 10 kB are free"):
        begin(ask(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_drive_is_an_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for Z: on Windows."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", lambda path: False)
        with pytest.raises(OutputError, match=r"cannot write to .*out: no such drive"):
            check_space(tmp_path / "out", 100)


def test_a_folder_with_only_locks_is_free(tmp_path: Path) -> None:
    for name in (".lock", ".lock.lock"):
        (tmp_path / name).touch()
    check_free(tmp_path, overwrite=False)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputError, match="holds no run of genlm train"):
        check_free(tmp_path, overwrite=False)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_checkpoint_leaves_the_previous_one(tmp_path: Path) -> None:
    request = ask(tmp_path, valid=None, recipe={"save_every": 5})
    run(request, tmp_path / "whole")
    trainer = begin(request, tmp_path / "out").trainer
    reports = trainer.run()
    next(reports)
    before = (tmp_path / "out/checkpoint.safetensors").read_bytes()
    with files_of_at_most(50_000), pytest.raises(OutputError, match=r"cannot write .*checkpoint\.safetensors"):
        list(reports)
    assert (tmp_path / "out/checkpoint.safetensors").read_bytes() == before
    assert not list((tmp_path / "out").glob(".*"))
    finish(resume(tmp_path / "out").trainer)
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shape(2, 30, 4, 16, 300), "n_embd=30 cannot be divided among n_head=4 heads"),
        (lambda: Shape(0, 30, 3, 16, 300), "n_layer must be 1 or more, not 0"),
        (lambda: Shape(2, 30, 3, 1, 300), "n_positions must be 2 or more, not 1"),
        (lambda: Recipe(max_steps=0), "max_steps must be 1 or more, not 0"),
        (lambda: Recipe(max_steps=None), "a run needs an end"),
        (lambda: Recipe(max_steps=1, batch_size=0), "batch_size must be 1 or more, not 0"),
        (lambda: Recipe(max_steps=1, learning_rate=0.0), "learning_rate must be greater than 0, not 0.0"),
        (lambda: Recipe(max_steps=1, learning_rate=math.nan), "learning_rate must be greater than 0, not nan"),
        (lambda: Recipe(max_steps=1, max_minutes=-1), "max_minutes must be greater than 0, not -1"),
        (lambda: Recipe(max_steps=1, seed=2**32), r"seed must be below 2\^32, not 4294967296"),
        (lambda: Recipe(max_steps=10**400), "max_steps must be at most 2,147,483,647"),
        (lambda: Shape(10**400, 30, 3, 16, 300), "n_layer must be at most 2,147,483,647"),
        (lambda: Recipe(max_steps=1, dropout=1.0), "dropout must be at least 0 and below 1, not 1.0"),
    ],
)
def test_invalid_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
