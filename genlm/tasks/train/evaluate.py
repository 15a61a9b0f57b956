"""How well a model in training does on text that it is not trained on, and what it writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genlm.model.info import ModelInfo
from genlm.tasks.generate import DEFAULT_STRATEGY, Limits, continue_prompt, result_of
from genlm.tasks.score import SlidingWindow, Window, score_windows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE_TOKENS = 40


@dataclass(frozen=True)
class Held:
    """Text that is held out: rows of ids, each from an end of text on, and the length of all in UTF-8."""

    rows: Sequence[Sequence[int]]
    num_bytes: int

    @property
    def num_targets(self) -> int:
        """How many tokens there are to predict."""
        return sum(len(row) - 1 for row in self.rows)

    def bits_per_byte(self, loss: float) -> float:
        """What a loss in nats a token comes to."""
        return loss * self.num_targets / math.log(2) / self.num_bytes


def estimate_loss(model: Any, held: Held, context: int, most_tokens: int) -> float:
    """The mean loss (nats a token) over windows side by side, about `most_tokens` in all, spread over the text."""
    windows = [row[at : at + context + 1] for row in held.rows for at in range(0, len(row) - 1, context)]
    every = max(1, round(held.num_targets / most_tokens))
    return _mean_loss(model, [Window(ids[:-1], 0, ids[1:], is_last=False) for ids in windows[::every]])


def exact_loss(model: Any, held: Held, context: int) -> float:
    """The mean loss (nats a token) over the whole text, windows sliding by half the context."""
    sliding = SlidingWindow.over(context, None)
    return _mean_loss(model, [window for row in held.rows for window in sliding.windows([row])])


def _mean_loss(model: Any, windows: list[Window]) -> float:
    from genlm.model.adapter import TransformersModel

    with _evaluating(model):
        scores = score_windows(TransformersModel(model), windows)
    total = sum(score.logprobs.double().sum().item() for score in scores if score is not None)
    return -total / sum(len(window.targets) for window in windows)


def sample_text(model: Any, tokenizer: Tokenizer, end: int, seed: int) -> str:
    """A little text from a model in training."""
    from genlm.model.adapter import TransformersModel
    from genlm.model.load import Model
    from genlm.model.tokenizer import Tokenizer as Exact

    info = ModelInfo("in training", "local", None, model.num_parameters(), "float32", str(model.device))
    whole = Model(info, TransformersModel(model), Exact(tokenizer), frozenset([end]), end, 0.0)
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
