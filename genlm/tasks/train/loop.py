"""The loop: steps down the gradient, with evaluations, a log and checkpoints on the way.

It is our own and not `transformers.Trainer`; docs/train.md says why.
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

from genlm.errors import ModelError, OutputError
from genlm.records.train import TrainReport, TrainResult
from genlm.tasks.train import checkpoint
from genlm.tasks.train.checkpoint import Place, replace_file
from genlm.tasks.train.data import NO_TARGET, Batches, Rows
from genlm.tasks.train.evaluate import Held, estimate_loss, exact_loss
from genlm.tasks.train.folder import SavedType, has_weights, load_saved, save_model
from genlm.tasks.train.network import load_weights, weights_of
from genlm.tasks.train.optimizer import Optimizer
from genlm.tasks.train.settings import SEED_BITS, Recipe

if TYPE_CHECKING:
    from torch import Tensor

LOG = "log.jsonl"
# Without held-out text a sample comes this often in a run.
SAMPLES = 8
# No more than this many seconds of work are lost, however slow the steps.
MOST_UNSAVED_S = 300.0


@dataclass(frozen=True)
class Data:
    """What a model is trained on, and with what it is measured. `sample` writes a little text, given a seed."""

    rows: Rows
    held: Held | None
    context: int
    bytes_per_token: float
    sample: Callable[[int], str] = lambda seed: ""


class Training:
    """A run under way. Iterate over `run`: it trains, and yields a report now and then.

    `out` is left with the weights that did best on the held-out text, or without one the last. Where the iteration is
    ended by `should_stop`, by an error or by force, a run made from the same settings goes on from the last
    checkpoint, and in float32 on the CPU comes to the very same weights.
    """

    def __init__(
        self,
        model: Any,
        data: Data,
        recipe: Recipe,
        out: Path,
        *,
        save_dtype: SavedType = "float32",
        device: str = "cpu",
    ) -> None:
        import torch

        self.recipe, self.data, self.out = recipe, data, out
        self.place = Place()
        self.is_finished = False
        self._model = model.to(device)
        self._forward: Any = torch.compile(self._model) if recipe.compile else self._model
        self._batches = Batches(data.rows, recipe.batch_size)
        self._optimizer = Optimizer(self._model, recipe.optimizer, recipe.weight_decay)
        self._save_dtype, self._device = save_dtype, device

    def resume(self) -> None:
        """Go to where the last checkpoint was made. Raises InputError where it is damaged."""
        self.place, weights, memory = checkpoint.load(self.out)
        load_weights(self._model, weights)
        self._optimizer.load(memory)
        self._batches = Batches(self.data.rows, self.recipe.batch_size, self.place.epoch, self.place.at)
        if self._is_best:
            # The end of the program may have come between the checkpoint and the weights that it calls the best.
            save_model(self._model, self._save_dtype, self.out)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[TrainReport | TrainResult]:
        """Train to the end, or until `should_stop`; then a checkpoint holds the place.

        Raises:
            ModelError: the loss is not a number.
            OutputError: the log, a checkpoint or the weights cannot be written.
        """
        with _log(self.out / LOG, self.place.step) as add:
            for report in self._reports(should_stop):
                add(report)
                yield report
        if self.is_finished:
            checkpoint.remove(self.out)

    @property
    def is_at_end(self) -> bool:
        """Whether no more steps are to be taken."""
        recipe, place = self.recipe, self.place
        is_stale = recipe.patience > 0 and place.worse >= recipe.patience
        return is_stale or recipe.progress(place.step, place.seconds) >= 1

    def _reports(self, should_stop: Callable[[], bool]) -> Iterator[TrainReport | TrainResult]:
        started = time.perf_counter() - self.place.seconds
        losses: list[Tensor] = []
        since = self.place
        saved = self.place.seconds
        while not self.is_at_end:
            rate = self._rate()
            loss, tokens = self.step(rate)
            losses.append(loss)
            self._advance(tokens, time.perf_counter() - started)
            stops = should_stop()
            evaluates = self.data.held is not None and (self._is_due(self.recipe.eval_every) or self.is_at_end)
            if evaluates or stops or self.is_at_end or self._is_due(self.recipe.report_every):
                report = self._report(losses, rate, since)
                if evaluates:
                    report = self._evaluated(report)
                report = self._with_sample(report, since)
                # The place keeps the seconds by which it was decided whether the run is at its end.
                losses, since = [], replace(self.place, seconds=time.perf_counter() - started)
                yield report
            is_due = self._is_due(self.recipe.save_every) or self.place.seconds - saved > MOST_UNSAVED_S
            if stops or is_due or self._is_best:
                self.save()
                saved = self.place.seconds
            if stops:
                return
        yield self._finish()

    @property
    def _is_best(self) -> bool:
        """Whether the weights are those that did best on the held-out text."""
        return self.place.best_loss is not None and self.place.best_step == self.place.step

    def _rate(self) -> float:
        return self.recipe.rate(self.place.step, self.recipe.progress(self.place.step, self.place.seconds))

    def _is_due(self, every: int) -> bool:
        return self.place.step % every == 0

    def _advance(self, tokens: int, seconds: float) -> None:
        place = self.place
        self.place = replace(
            place,
            step=place.step + 1,
            tokens=place.tokens + tokens,
            seconds=seconds,
            epoch=self._batches.epoch,
            at=self._batches.at,
        )

    def step(self, rate: float) -> tuple[Tensor, int]:
        """One step: the mean loss of its rows before it (nats a token), and how many tokens were predicted."""
        import torch

        # What dropout draws depends on the step alone, and not on what ran before.
        torch.manual_seed((self.recipe.seed << SEED_BITS) + self.place.step)
        loss, tokens = self.add_gradient([self._batches.take() for _ in range(self.recipe.accumulate)])
        torch.nn.utils.clip_grad_norm_(self._optimizer.parameters, self.recipe.max_grad_norm)
        self._optimizer.step(rate)
        return loss, tokens

    def add_gradient(self, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, int]:
        """Add up the gradient of the mean loss over all targets of `batches`; that loss, and their number."""
        import torch

        count = sum(int((targets != NO_TARGET).sum()) for _, targets in batches)
        total = torch.zeros((), device=self._device)
        for inputs, targets in batches:
            with self._autocast():
                logits = self._forward(inputs.to(self._device), use_cache=False).logits
            wanted = targets.flatten().to(self._device)
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), wanted, reduction="sum")
            (nats / count).backward()
            total += nats.detach()
        return total / count, count

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(self._device, torch.bfloat16, enabled=self.recipe.dtype == "bfloat16")

    def _report(self, losses: Sequence[Tensor], rate: float, since: Place) -> TrainReport:
        loss = sum(loss.item() for loss in losses) / len(losses)
        place = self.place
        if not math.isfinite(loss):
            raise ModelError(f"the loss is not a number at step {place.step}", hint="a lower learning rate may help")
        return TrainReport(
            step=place.step,
            epoch=place.epoch,
            tokens=place.tokens,
            seconds=place.seconds,
            progress=self.recipe.progress(place.step, place.seconds),
            loss=loss,
            bits_per_byte=loss / math.log(2) / self.data.bytes_per_token,
            learning_rate=rate,
            tokens_per_s=(place.tokens - since.tokens) / max(1e-9, place.seconds - since.seconds),
        )

    def _evaluated(self, report: TrainReport) -> TrainReport:
        """The report with the loss on the held-out text, which is noted if it is the best."""
        assert self.data.held is not None
        with self._autocast():
            loss = estimate_loss(self._model, self.data.held, self.data.context, self.recipe.eval_tokens)
        place = self.place
        if place.best_loss is None or loss < place.best_loss:
            self.place = replace(place, best_loss=loss, best_step=place.step, worse=0)
        else:
            self.place = replace(place, worse=place.worse + 1)
        return replace(report, valid_loss=loss, valid_bits_per_byte=self.data.held.bits_per_byte(loss))

    def _with_sample(self, report: TrainReport, since: Place) -> TrainReport:
        """The report with a sample, if it is time for one."""
        before = self.recipe.progress(since.step, since.seconds)
        passed = math.floor(report.progress * SAMPLES) > math.floor(before * SAMPLES)
        if report.valid_loss is None and (self.data.held is not None or not passed):
            return report
        return replace(report, sample=self.data.sample(report.step))

    def save(self) -> None:
        """Write a checkpoint, then the weights where they are the best, or if there are none yet. Raises OutputError.

        So the weights in `out` are never of a step that the checkpoint knows nothing of, and what is lost where only
        the first of both was written is in the checkpoint.
        """
        checkpoint.save(self.out, self.place, weights_of(self._model), self._optimizer.state())
        if self._is_best or not has_weights(self.out):
            save_model(self._model, self._save_dtype, self.out)

    def _finish(self) -> TrainResult:
        """Leave the best weights in `out`, and say how they do on the whole of the held-out text."""
        place, held = self.place, self.data.held
        valid_loss = None
        if held is None:
            save_model(self._model, self._save_dtype, self.out)
        else:
            valid_loss = exact_loss(load_saved(self.out, self._device), held, self.data.context)
        self.is_finished = True
        return TrainResult(
            step=place.step,
            tokens=place.tokens,
            seconds=place.seconds,
            best_step=place.best_step or place.step,
            stopped_early=self.recipe.progress(place.step, place.seconds) < 1,
            valid_loss=valid_loss,
            valid_bits_per_byte=held.bits_per_byte(valid_loss) if held and valid_loss is not None else None,
        )


def came_to_its_end(out: Path) -> bool:
    """Whether the run in `out` is finished."""
    if checkpoint.is_there(out) or not (out / LOG).is_file():
        return False
    lines = (out / LOG).read_text("utf-8").splitlines()
    return bool(lines) and "best_step" in lines[-1]


@contextmanager
def _log(path: Path, until: int) -> Iterator[Callable[[TrainReport | TrainResult], None]]:
    """A way to add lines to the log, from which first goes what came after step `until`."""
    try:
        lines = path.read_text("utf-8").splitlines() if until else []
        kept = [line for line in lines if _step_of(line) <= until]
        replace_file(path, lambda beside: _write_lines(beside, kept))
        with path.open("a", encoding="utf-8", newline="\n") as stream:

            def add(record: TrainReport | TrainResult) -> None:
                stream.write(json.dumps(asdict(record)) + "\n")
                stream.flush()

            yield add
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _step_of(line: str) -> float:
    """The step that a line of the log tells of, none if a full disk let only its beginning through."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), "utf-8", newline="\n")
