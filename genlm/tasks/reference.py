"""Texts that a model did not write: what it makes of human text, and of another model's completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genlm.errors import InputError
from genlm.model.pieces import Pieces
from genlm.records.compare import Judgement, Sample
from genlm.tasks.generate import prompt_ids
from genlm.tasks.next import continuation_ids
from genlm.tasks.windows import Sliding, Window, score_windows

if TYPE_CHECKING:
    from genlm.model.load import Model


class HumanTexts:
    """Reads human texts as a model's completions are read: of each as many tokens as a completion may have."""

    def __init__(self, model: Model, prompts: Sequence[str], most: int) -> None:
        self._model = model
        self._prompts = prompts
        self._most = most
        self._pieces = Pieces(model.tokenizer)

    def prompt_of(self, text: str) -> int | None:
        """The longest prompt that the text goes on from, which it then is read after."""
        begun = [at for at, prompt in enumerate(self._prompts) if prompt and text.startswith(prompt) and text != prompt]
        return max(begun, key=lambda at: len(self._prompts[at]), default=None)

    def read(self, index: int, text: str) -> Sample:
        """What the model makes of a text, after its prompt or else after a start token.

        Without either, its first token is not scored. Raises InputError where the model cannot take it.
        """
        from genlm.decoding.trace import trace_text

        place = self.prompt_of(text)
        prompt = "" if place is None else self._prompts[place]
        text = text[len(prompt) :]
        ids = continuation_ids(self._model, prompt, text)
        if len(ids) > self._most:
            ids = ids[: self._most]
            text = self._pieces.join(ids)
        before = _context(self._model, prompt, self._most)
        unscored = 0 if before else 1
        trace = trace_text(self._model.network, before or ids[:1], ids[unscored:], self._pieces)
        return Sample(
            place,
            index,
            text,
            ids,
            None,
            (*[None] * unscored, *(token.logprob for token in trace)),
            (*[None] * unscored, *(token.entropy for token in trace)),
            trace=None if unscored else tuple(trace),
        )


class Judge:
    """A model that says how likely it finds another's texts, each after its prompt, in its own tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._sliding = Sliding.over(model.network.context, None)

    def judge(self, prompts: Sequence[str], texts: Sequence[str]) -> list[Judgement | None]:
        """The judgement of each text; None of one that is empty, or that the model's tokenizer cannot express."""
        counts, shelf = [], []
        for prompt, text in zip(prompts, texts, strict=True):
            windows, count = self._windows(prompt, text)
            counts.append(count)
            shelf.append(windows)
        scores = iter(score_windows(self._model.network, [window for windows in shelf for window in windows]))
        judged: list[Judgement | None] = []
        for windows, count in zip(shelf, counts, strict=True):
            found = [next(scores) for _ in windows]
            logprobs = [number for each in found if each is not None for number in each.logprobs.tolist()]
            judged.append(Judgement(sum(logprobs[-count:]), count) if count else None)
        return judged

    def _windows(self, prompt: str, text: str) -> tuple[list[Window], int]:
        """The windows over a text after its prompt, and how many of the last scores are the text's own."""
        try:
            new = continuation_ids(self._model, prompt, text) if text else ()
            before = _context(self._model, prompt, None) if new else ()
        except InputError:
            new, before = (), ()
        count = len(new) if before else max(0, len(new) - 1)
        return list(self._sliding.windows([[*before, *new]])), count


def _context(model: Model, prompt: str, room: int | None) -> tuple[int, ...]:
    """The tokens that a text is read after: its prompt's, a start token, or none; with room for so many more.

    Raises InputError where there is no such room.
    """
    if not prompt and model.start_id is None:
        return ()
    if room is None:
        return tuple(model.tokenizer.encode(prompt)) if prompt else (model.start_id or 0,)
    return prompt_ids(model, prompt, room, "error")
