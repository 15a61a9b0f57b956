"""A generation as text while it runs, and as JSON when it is complete."""

from __future__ import annotations

from typing import TextIO

from genlm.decoding.completion import Completion, Piece
from genlm.records.generation import Generation
from genlm.records.serialize import as_object
from genlm.views.terminal import Writer

# Between samples, instead of the headings on a terminal.
SEPARATOR = "---"


class TextView:
    """Writes pieces to a stream as they come. Of several samples, one is shown live and the others wait."""

    # The events that may write.
    shows: tuple[type, ...] = (Piece, Completion)

    def __init__(self, stream: TextIO, prompt: str, count: int, *, echo: bool) -> None:
        self._writer = Writer(stream)
        self._prompt = prompt if echo else ""
        self._count = count
        self._shown = 0
        self._is_open = False
        self._waiting: dict[int, list[tuple[str, str | None]]] = {}
        self._ended: set[int] = set()

    def show(self, event: Piece | Completion) -> None:
        """Show an event now, or keep it until the samples before it have ended."""
        if isinstance(event, Completion):
            self._ended.add(event.index)
        else:
            self._waiting.setdefault(event.index, []).append((event.text, None))
        while self._shown < self._count:
            self._catch_up()
            if self._shown not in self._ended:
                return
            self._close()
            self._shown += 1

    def interrupt(self) -> None:
        """End the line that Ctrl-C cut. On a terminal, the command line does so."""
        if self._is_open and not self._writer.is_terminal:
            self._close()

    def finish(self, generation: Generation) -> None:
        """Do nothing: all of it was shown."""

    def _catch_up(self) -> None:
        """Write what has come of the current sample, the prompt first."""
        if not self._is_open:
            self._open()
        for text, style in self._waiting.pop(self._shown, []):
            self._writer.write(text, style)

    def _open(self) -> None:
        self._is_open = True
        if self._count > 1:
            self._head()
        if self._prompt:
            self._writer.write(self._prompt, style="bold")

    def _head(self) -> None:
        if self._writer.console is not None:
            self._writer.console.rule(f"{self._shown + 1} of {self._count}", align="left", style="dim")
        elif self._shown > 0:
            self._writer.write(SEPARATOR + "\n")

    def _close(self) -> None:
        self._writer.write("\n")
        self._is_open = False


class JsonView:
    """Writes the object of `--format json` when the generation is complete."""

    shows: tuple[type, ...] = ()

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: Piece | Completion) -> None:
        """Do nothing: the generation contains the events."""

    def interrupt(self) -> None:
        """Do nothing: half an object would be useless."""

    def finish(self, generation: Generation) -> None:
        """Write the object."""
        self._stream.write(as_json(generation))


def as_json(generation: Generation) -> str:
    """Return a generation as one JSON object, ending in a line break."""
    return as_object(generation.to_dict())


def summary(generation: Generation) -> str:
    """Return what ran, in one line."""
    model, timing = generation.model, generation.timing
    tokens = sum(len(completion.token_ids) for completion in generation.completions)
    seconds = timing.prefill_s + timing.decode_s
    parts = [
        f"{model.name} ({model.dtype}, {model.device})",
        *([] if generation.engine == "genlm" else [f"by {generation.engine}"]),
        generation.strategy.as_given,
        *([f"seed {generation.seed}"] if generation.strategy.samples else []),
        f"{tokens} token{'' if tokens == 1 else 's'} in {seconds:.2f} s ({timing.tokens_per_s:.0f}/s)",
    ]
    return "  ".join(parts)
