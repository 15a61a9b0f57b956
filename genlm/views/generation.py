"""Generations: as text while they run, as JSON, coloured by probability, as a page, and replays of saved ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from genlm.decoding.completion import Completion, Piece, TracedToken
from genlm.records.generation import Generation, Replay
from genlm.records.serialize import as_object
from genlm.views.terminal import Writer, visible
from genlm.views.tokens import STYLES, counted, label, whole_pieces

if TYPE_CHECKING:
    from rich.text import Text

    from genlm.records.compare import Sample

# Between samples, instead of the headings on a terminal.
SEPARATOR = "---"
# A token belongs to the first bucket whose bound its probability reaches.
BOUNDS = (0.5, 0.1, 0.01)
BUCKETS = (*(f"{100 * bound:g} % and more" for bound in BOUNDS), "less")
# Generated but not part of the text: an end token, a stop text and everything after it.
BEYOND = "dim"
# Browsers get slow with more tokens.
MOST_PAGE_TOKENS = 20_000


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

    def finish(self) -> None:
        """Do nothing: all of it was shown."""

    def _catch_up(self) -> None:
        """Write the new text of the current sample, after the prompt."""
        if not self._is_open:
            self._is_open = True
            self._head()
            if self._prompt:
                self._writer.write(self._prompt, style="bold")
        for text, style in self._waiting.pop(self._shown, []):
            self._writer.write(text, style)

    def _head(self) -> None:
        if self._count == 1:
            return
        if self._writer.console is not None:
            self._writer.console.rule(f"{self._shown + 1} of {self._count}", align="left", style="dim")
        elif self._shown > 0:
            self._writer.write(SEPARATOR + "\n")

    def _close(self) -> None:
        self._writer.write("\n")
        self._is_open = False


class TraceView(TextView):
    """Writes each completion as it ends, coloured by its tokens' probabilities, and a legend below."""

    shows = (Completion,)

    def show(self, event: Piece | Completion) -> None:
        """See TextView. Pieces of text are not shown because they do not align with tokens."""
        if isinstance(event, Completion):
            self._waiting[event.index] = [
                (text, STYLES[bucket(token.probability)] if within else BEYOND) for text, token, within in parts(event)
            ]
            super().show(event)

    def finish(self) -> None:
        """Write the legend."""
        if self._writer.console is not None:
            self._writer.console.print(legend())


def parts(completion: Completion | Sample) -> Iterator[tuple[str, TracedToken, bool]]:
    """Yield the parts of a completion: each text, its token, and whether it belongs to the completion's text."""
    left = sys.maxsize if completion.finish_reason == "length" else len(completion.text)
    for text, token in whole_pieces(completion.trace or ()):
        for part, within in ((text[:left], True), (text[left:], False)):
            if part:
                yield part, token, within
        left = max(0, left - len(text))


def bucket(probability: float) -> int:
    """Return which of BUCKETS a probability belongs to."""
    return sum(probability < bound for bound in BOUNDS)


def legend(names: Sequence[str] = BUCKETS) -> Text:
    """Return the styles and their meaning, on one line."""
    from rich.text import Text

    shown = Text.assemble(("probability  ", "dim"))
    for name, style in zip(names, STYLES, strict=True):
        shown.append(name, style=style)
        shown.append("  ")
    return shown


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


def trace_page(generation: Generation) -> str:
    """Return the page of a traced generation."""
    from genlm.views.pages import make_page, provenance

    samples: list[dict[str, Any]] = []
    room = MOST_PAGE_TOKENS
    for completion in generation.completions:
        tokens = [token_record(*part) for part in parts(completion)]
        if room > 0:
            samples.append({"head": _head(completion), "tokens": tokens[:room]})
        room -= len(tokens)
    data = {
        "about": visible(summary(generation)).replace("  ", " \u00b7 "),
        "prompt": visible(generation.prompt),
        "buckets": BUCKETS,
        "bounds": BOUNDS,
        "samples": samples,
        "cut": f"Shown are the first {MOST_PAGE_TOKENS:,} of {MOST_PAGE_TOKENS - room:,} tokens." if room < 0 else None,
    }
    footer = provenance(generation.made_by, generation.model, generation.seed) if generation.made_by else []
    return make_page("Generation", data, "trace", "tokens", footer=footer)


def _head(completion: Completion) -> str:
    count = counted(len(completion.token_ids), "token")
    return f"{completion.index + 1} \u00b7 {count}, {completion.logprob:.3f} nats, {completion.finish_reason}"


def token_record(text: str, token: TracedToken, within: bool) -> dict[str, Any]:
    """Return the token as the page's script reads it."""
    return {
        "text": visible(text),
        "label": label(token.text, token.bytes),
        "within": within,
        "id": token.id,
        "rank": token.rank,
        "probability": token.probability,
        "logprob": token.logprob,
        "entropy": token.entropy,
        "candidates": token.candidates,
        "mass": token.mass,
        "alternatives": [[each.id, label(each.text, each.bytes), each.probability] for each in token.alternatives],
    }


def replay_text(replay: Replay) -> str:
    """Return one line, or the difference in three."""
    difference = replay.difference
    if difference is None:
        completions = replay.generation.completions
        tokens = sum(len(completion.token_ids) for completion in completions)
        return f"the same: {counted(len(completions), 'completion')}, {counted(tokens, 'token')}\n"
    if difference.position is None:
        return f"differs: sample {difference.index + 1} has the same tokens, and another text or end\n"
    return (
        f"differs: sample {difference.index + 1} at new token {difference.position + 1}\n"
        f"saved: {_shown_token(difference.saved)}\n"
        f"now:   {_shown_token(difference.now)}\n"
    )


def replay_json(replay: Replay) -> str:
    """Return one object with `same`, and `difference`, which is null if there is none."""
    if replay.difference is None:
        return as_object({"same": True, "difference": None})
    record = asdict(replay.difference)
    for key in ("saved", "now"):
        token = record[key]
        record[key] = None if token is None else {"id": token[0], "text": token[1]}
    return as_object({"same": False, "difference": record})


def _shown_token(token: tuple[int, str] | None) -> str:
    return "no more tokens" if token is None else f"{visible(repr(token[1]))} (id {token[0]})"
