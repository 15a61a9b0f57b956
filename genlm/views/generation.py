"""A generation as text while it is made, and as JSON once it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TextIO

from genlm.decoding.completion import Completion, Piece
from genlm.records import Generation
from genlm.views.terminal import escaped, visible

# Between samples where no terminal shows headings.
SEPARATOR = "---"


class TextView:
    """Writes pieces to a stream as they come. Of several samples one is shown live, the others wait their turn."""

    def __init__(self, stream: TextIO, prompt: str, count: int, *, echo: bool) -> None:
        self.stream = stream
        self.prompt = prompt if echo else ""
        self.count = count
        self.is_terminal = stream.isatty()
        self.shown = -1
        self.waiting: dict[int, list[str]] = {}
        self.ended: set[int] = set()
        self._console = _console(stream) if self.is_terminal else None
        self._open(0)

    def show(self, event: Piece | Completion) -> None:
        """Show an event now, or keep it until the samples before it have ended."""
        if isinstance(event, Completion):
            self.ended.add(event.index)
        elif event.index == self.shown:
            self._write(event.text)
        else:
            self.waiting.setdefault(event.index, []).append(event.text)
        while self.shown in self.ended:
            self._close()
            if self.shown + 1 == self.count:
                self.shown += 1
                return
            self._open(self.shown + 1)

    def interrupt(self) -> None:
        """End the line where Ctrl-C cut it."""
        if self.shown < self.count:
            self._write("\n")

    def _open(self, index: int) -> None:
        self.shown = index
        if self.count > 1:
            self._head(index)
        if self.prompt:
            self._write(self.prompt, style="bold")
        for text in self.waiting.pop(index, []):
            self._write(text)

    def _head(self, index: int) -> None:
        if self._console is not None:
            self._console.rule(f"{index + 1} of {self.count}", align="left", style="dim")
        elif index:
            self._write(SEPARATOR + "\n")

    def _close(self) -> None:
        self._write("\n")

    def _write(self, text: str, style: str | None = None) -> None:
        if self._console is not None:
            self._console.out(visible(text), style=style, highlight=False, end="")
        else:
            self.stream.write(text)
        self.stream.flush()


def _console(stream: TextIO) -> Any:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)


def as_json(generation: Generation) -> str:
    """The one object that `--format json` prints, with a line break at its end."""
    strategy = generation.strategy
    record = {
        "model": asdict(generation.model),
        "strategy": {
            "name": strategy.name,
            "kind": strategy.kind,
            "spec": strategy.spec,
            "fields": strategy.fields,
        },
        "seed": generation.seed,
        "max_new_tokens": generation.max_new_tokens,
        "prompt": generation.prompt,
        "prompt_token_ids": list(generation.prompt_token_ids),
        "completions": [asdict(completion) for completion in generation.completions],
        "timing": asdict(generation.timing),
    }
    return escaped(json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)) + "\n"


def summary(generation: Generation) -> str:
    """What ran, in one line."""
    model, timing = generation.model, generation.timing
    tokens = sum(len(completion.token_ids) for completion in generation.completions)
    seconds = timing.prefill_s + timing.decode_s
    parts = [
        f"{model.name} ({model.dtype}, {model.device})",
        generation.strategy.spec,
        *([f"seed {generation.seed}"] if generation.strategy.samples else []),
        f"{tokens} tokens in {seconds:.2f} s ({timing.tokens_per_s:.0f}/s)",
    ]
    return "  ".join(parts)
