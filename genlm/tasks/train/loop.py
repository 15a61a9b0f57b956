"""The training loop: steps, evaluations, log and checkpoints.

It is genlm's own instead of `transformers.Trainer`; docs/train.md says why.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import ModelError
from genlm.formats.output import cannot_write
from genlm.model.info import ModelInfo
from genlm.records.train import TrainReport, TrainResult
from genlm.tasks.generate import DEFAULT_STRATEGY, Limits, continue_prompt, result_of
from genlm.tasks.score import SlidingWindow, Window, score_windows
from genlm.tasks.train.data import NO_TARGET, Batches, Rows
from genlm.tasks.train.folder import (
    CHECKPOINT,
    LOG,
    TrainState,
    load_checkpoint,
    replacing_files,
    save_checkpoint,
    save_model,
)
from genlm.tasks.train.model import Optimizer, check_memory, load_weights, weights_of
from genlm.tasks.train.settings import SEED_BITS, Recipe, SavedType

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

# The number of samples that a run without held-out text shows.
SAMPLES = 8
SAMPLE_TOKENS = 40
# A kill loses at most this many seconds of work, and a step.
MOST_UNSAVED_S = 300.0


@dataclass(frozen=True)
class HeldOut:
    """Text to evaluate on: rows of ids, each with an end of text at its start, and their length in UTF-8."""

    rows: Sequence[Sequence[int]]
    num_bytes: int

    @property
    def num_targets(self) -> int:
        """The number of tokens to predict."""
        return sum(len(row) - 1 for row in self.rows)

    def bits_per_byte(self, loss: float) -> float:
        """Convert a loss in nats a token to bits per byte."""
        return loss * self.num_targets / math.log(2) / self.num_bytes


@dataclass(frozen=True)
class TrainData:
    """The data that a model is trained and evaluated on. `sample` generates a short text from a seed."""

    rows: Rows
    held_out: HeldOut | None
    context: int
    bytes_per_token: float
    sample: Callable[[int], str] = lambda seed: ""


class Trainer:
    """A training run. Iterate over `run` to train; it yields reports.

    At the end `out` holds the weights with the lowest loss on the held-out text, or the last ones if nothing is held
    out. If the iteration ends early, by `should_stop`, an error or a kill, a run with the same settings continues from
    the last checkpoint. In float32 on the CPU it reaches exactly the same weights.
    """

    def __init__(
        self,
        model: Any,
        data: TrainData,
        recipe: Recipe,
        out: Path,
        *,
        save_dtype: SavedType = "float32",
        device: str = "cpu",
    ) -> None:
        import torch

        self.recipe, self.data, self.out = recipe, data, out
        self.state = TrainState()
        self.is_finished = False
        self._model = model.to(device)
        self._forward: Any = torch.compile(self._model) if recipe.compile else self._model
        self._batches = Batches(data.rows, recipe.batch_size)
        tokens = self._batches.size * self._batches.length
        vocab_size = self._model.get_output_embeddings().weight.shape[0]
        check_memory(
            device,
            # The ids of all batches and their targets; the logits of one batch and their gradient.
            tokens * (recipe.accumulate * 2 * 8 + vocab_size * 2 * 4),
            f"a step of {recipe.accumulate:,} x {self._batches.size:,} rows",
            "a smaller batch_size or accumulate needs less",
        )
        self._optimizer = Optimizer(self._model, recipe.optimizer, recipe.weight_decay)
        self._save_dtype, self._device = save_dtype, device

    def resume(self) -> None:
        """Continue from the last checkpoint. Raise InputError if it is damaged."""
        self.state, weights, optimizer = load_checkpoint(self.out)
        load_weights(self._model, weights)
        self._optimizer.load(optimizer)
        self._batches = Batches(self.data.rows, self.recipe.batch_size, self.state.epoch, self.state.at)
        if self._is_best:
            # The process may have ended between writing the checkpoint and the best weights.
            save_model(self._model, self._save_dtype, self.out)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[TrainReport | TrainResult]:
        """Train to the end, or until `should_stop` returns true; then write a checkpoint.

        Raises:
            ModelError: the loss is not a number.
            OutputError: the log, a checkpoint or the weights cannot be written.
        """
        with _open_log(self.out, self.state.step) as add:
            for report in self._reports(should_stop):
                add(report)
                yield report
        if self.is_finished:
            (self.out / CHECKPOINT).unlink(missing_ok=True)

    def _reports(self, should_stop: Callable[[], bool]) -> Iterator[TrainReport | TrainResult]:
        started = time.perf_counter() - self.state.seconds
        losses: list[Tensor] = []
        since = self.state
        saved = self.state.seconds
        while not self._is_at_end:
            rate = self.recipe.rate(self.state.step, self.recipe.progress(self.state.step, self.state.seconds))
            loss, tokens = self.step(rate)
            losses.append(loss)
            self.state = replace(
                self.state,
                step=self.state.step + 1,
                tokens=self.state.tokens + tokens,
                seconds=time.perf_counter() - started,
                epoch=self._batches.epoch,
                at=self._batches.at,
            )
            stops = should_stop()
            evaluates = self.data.held_out is not None and (self._is_due(self.recipe.eval_every) or self._is_at_end)
            if evaluates or stops or self._is_at_end or self._is_due(self.recipe.report_every):
                report = self._report(losses, rate, since)
                if evaluates:
                    report = self._evaluate(report)
                report = self._add_sample(report, since)
                # The time of the report is not in self.state, whose seconds decided whether the run is at its end.
                losses, since = [], replace(self.state, seconds=time.perf_counter() - started)
                yield report
            is_due = self._is_due(self.recipe.save_every) or self.state.seconds - saved > MOST_UNSAVED_S
            if stops or is_due or self._is_best:
                self._save()
                saved = self.state.seconds
            if stops:
                return
        yield self._finish()

    @property
    def _is_at_end(self) -> bool:
        recipe, state = self.recipe, self.state
        is_stale = recipe.patience > 0 and state.worse >= recipe.patience
        return is_stale or recipe.progress(state.step, state.seconds) >= 1

    @property
    def _is_best(self) -> bool:
        """Whether the current weights have the best loss on the held-out text."""
        return self.state.best_loss is not None and self.state.best_step == self.state.step

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0

    def step(self, rate: float) -> tuple[Tensor, int]:
        """Do one step. Return the mean loss before it (nats a token) and the number of tokens predicted."""
        import torch

        # Dropout depends only on the step, not on what ran before.
        torch.manual_seed((self.recipe.seed << SEED_BITS) + self.state.step)
        loss, tokens = self.add_gradient([self._batches.take() for _ in range(self.recipe.accumulate)])
        torch.nn.utils.clip_grad_norm_(self._optimizer.parameters, self.recipe.max_grad_norm)
        self._optimizer.step(rate)
        return loss, tokens

    def add_gradient(self, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, int]:
        """Add the gradient of the mean loss over all targets of `batches`. Return that loss, and their number."""
        import torch

        count = sum(int((targets != NO_TARGET).sum()) for _, targets in batches)
        total = torch.zeros((), device=self._device)
        for inputs, targets in batches:
            with self._autocast():
                logits = self._forward(inputs.to(self._device), use_cache=False).logits
            flat = targets.flatten().to(self._device)
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), flat, reduction="sum")
            (nats / count).backward()
            total += nats.detach()
        return total / count, count

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(self._device, torch.bfloat16, enabled=self.recipe.dtype == "bfloat16")

    def _report(self, losses: Sequence[Tensor], rate: float, since: TrainState) -> TrainReport:
        loss = sum(loss.item() for loss in losses) / len(losses)
        state = self.state
        if not math.isfinite(loss):
            raise ModelError(f"the loss is not a number at step {state.step}", hint="a lower learning rate may help")
        return TrainReport(
            step=state.step,
            epoch=state.epoch,
            tokens=state.tokens,
            seconds=state.seconds,
            progress=self.recipe.progress(state.step, state.seconds),
            loss=loss,
            bits_per_byte=loss / math.log(2) / self.data.bytes_per_token,
            learning_rate=rate,
            tokens_per_s=(state.tokens - since.tokens) / max(1e-9, state.seconds - since.seconds),
        )

    def _evaluate(self, report: TrainReport) -> TrainReport:
        """Return the report with the loss on the held-out text, and remember whether it is the best so far."""
        assert self.data.held_out is not None
        with self._autocast():
            loss = estimate_loss(self._model, self.data.held_out, self.data.context, self.recipe.eval_tokens)
        state = self.state
        if state.best_loss is None or loss < state.best_loss:
            self.state = replace(state, best_loss=loss, best_step=state.step, worse=0)
        else:
            self.state = replace(state, worse=state.worse + 1)
        return replace(report, valid_loss=loss, valid_bits_per_byte=self.data.held_out.bits_per_byte(loss))

    def _add_sample(self, report: TrainReport, since: TrainState) -> TrainReport:
        """Return the report with a sample if one is due: at each evaluation, or `SAMPLES` times if there are none."""
        before = self.recipe.progress(since.step, since.seconds)
        passed = math.floor(report.progress * SAMPLES) > math.floor(before * SAMPLES)
        if report.valid_loss is None and (self.data.held_out is not None or not passed):
            return report
        return replace(report, sample=self.data.sample(report.step))

    def _save(self) -> None:
        """Write a checkpoint, then the weights if they are the best or the first. Raise OutputError if that fails.

        In this order, if the process ends between the two, the checkpoint still holds the best weights.
        """
        save_checkpoint(self.out, self.state, weights_of(self._model), self._optimizer.state())
        if self._is_best or not any(self.out.glob("model*.safetensors")):
            save_model(self._model, self._save_dtype, self.out)

    def _finish(self) -> TrainResult:
        """Make sure that `out` holds the best weights, and return their loss on all of the held-out text."""
        import torch

        from genlm.model.adapter import load_transformers_model

        state, held_out = self.state, self.data.held_out
        valid_loss = None
        if held_out is None:
            save_model(self._model, self._save_dtype, self.out)
        else:
            model = load_transformers_model(self.out, self._device, torch.float32, allow_pickle=False)
            valid_loss = exact_loss(model, held_out, self.data.context)
        self.is_finished = True
        return TrainResult(
            step=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
            best_step=state.best_step or state.step,
            stopped_early=self.recipe.progress(state.step, state.seconds) < 1,
            valid_loss=valid_loss,
            valid_bits_per_byte=held_out.bits_per_byte(valid_loss) if held_out and valid_loss is not None else None,
        )


def estimate_loss(model: Any, held_out: HeldOut, context: int, most_tokens: int) -> float:
    """Return the mean loss (nats a token) over windows with about `most_tokens` in all, spread over the text."""
    windows = [row[at : at + context + 1] for row in held_out.rows for at in range(0, len(row) - 1, context)]
    every = max(1, round(held_out.num_targets / most_tokens))
    return _mean_loss(model, [Window(ids[:-1], 0, ids[1:], is_last=False) for ids in windows[::every]])


def exact_loss(model: Any, held_out: HeldOut, context: int) -> float:
    """Return the mean loss (nats a token) over all of the text, in windows that slide by half the context."""
    sliding = SlidingWindow.over(context, None)
    return _mean_loss(model, [window for row in held_out.rows for window in sliding.windows([row])])


def _mean_loss(model: Any, windows: list[Window]) -> float:
    from genlm.model.adapter import TransformersModel

    with _evaluating(model):
        scores = score_windows(TransformersModel(model), windows)
    total = sum(score.logprobs.double().sum().item() for score in scores if score is not None)
    return -total / sum(len(window.targets) for window in windows)


def sample_text(model: Any, tokenizer: Tokenizer, end: int, seed: int) -> str:
    """Return a short text from a model in training."""
    from genlm.model.adapter import TransformersModel
    from genlm.model.load import Model
    from genlm.model.tokenizer import Tokenizer as TextTokenizer

    info = ModelInfo("in training", "local", None, model.num_parameters(), "float32", str(model.device))
    whole = Model(info, TransformersModel(model), TextTokenizer(tokenizer), frozenset([end]), end, 0.0)
    with _evaluating(model):
        room = (whole.network.context or SAMPLE_TOKENS + 1) - 1
        result = result_of(continue_prompt(whole, "", DEFAULT_STRATEGY, Limits(max(1, min(SAMPLE_TOKENS, room))), seed))
    return result.completions[0].text


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def has_finished(out: Path) -> bool:
    """Return whether the run in `out` has finished."""
    if (out / CHECKPOINT).is_file() or not (out / LOG).is_file():
        return False
    # Only the result has this key.
    return '"best_step": ' in (out / LOG).read_text("utf-8")


@contextmanager
def _open_log(out: Path, last_step: int) -> Iterator[Callable[[TrainReport | TrainResult], None]]:
    """Drop the log's lines after `last_step`, and yield a function that adds a record."""
    path = out / LOG
    try:
        lines = path.read_text("utf-8").splitlines() if last_step else []
        kept = [line + "\n" for line in lines if _step_of(line) <= last_step]
        with replacing_files(out, LOG) as new:
            (new / LOG).write_text("".join(kept), "utf-8", newline="\n")
        with path.open("a", encoding="utf-8", newline="\n") as stream:

            def add(record: TrainReport | TrainResult) -> None:
                stream.write(json.dumps(asdict(record)) + "\n")
                stream.flush()

            yield add
    except OSError as error:
        raise cannot_write(path, error) from error


def _step_of(line: str) -> float:
    """Return the step of a line of the log, or infinity if a full disk cut the line short."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf
