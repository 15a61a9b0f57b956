"""A training run: its progress, as a bar on a terminal or as lines; its model card; the curve of its losses."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genlm.errors import InputError
from genlm.records.train import TrainFacts, TrainReport, TrainResult
from genlm.views.terminal import make_console, one_line, say

if TYPE_CHECKING:
    from rich.progress import Progress

# Without a terminal: the number of lines in a run, and the longest time between them.
LINES = 20
LINE_EVERY_S = 30.0
# Your own model card has this in the place of the table.
FIGURES = "{figures}"
CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---
# {name}

{made}

{figures}

![loss](loss.png)

`log.jsonl` holds the loss step by step, `training.json` all settings of the run.

```console
$ genlm generate "..." -m PATH_TO_THIS_FOLDER
```
"""


class TrainView:
    """Shows the progress of a run on stderr. As a context manager it opens and removes the bar."""

    def __init__(self, facts: TrainFacts, *, enabled: bool = True) -> None:
        self._facts = facts
        self._enabled = enabled
        self._bar = _bar() if enabled and sys.stderr.isatty() else None
        self._valid: TrainReport | None = None
        self._last_progress, self._last_time = 0.0, 0.0

    def __enter__(self) -> TrainView:
        if self._enabled:
            say(("dim", _facts_line(self._facts)), wrap=True)
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task("", total=1.0, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, record: TrainReport | TrainResult) -> None:
        """Show a record."""
        if not self._enabled:
            return
        if isinstance(record, TrainResult):
            for line in result_lines(record):
                self._say(line)
            return
        if self._bar is not None:
            self._valid = record if record.valid_loss is not None else self._valid
            numbers = bar_numbers(record, self._valid)
            self._bar.update(self._bar.task_ids[0], completed=record.progress, numbers=numbers)
            self._bar.refresh()
        if record.valid_loss is not None or record.sample is not None or self._is_time(record):
            self._say(report_line(record, alone=self._bar is None))
        if record.sample is not None:
            self._say(f"  {one_line(record.sample)}", "dim")

    def _is_time(self, report: TrainReport) -> bool:
        """Return whether a line is due. Beside a bar, none ever is."""
        if self._bar is not None:
            return False
        passed = int(report.progress * LINES) > int(self._last_progress * LINES)
        if passed or time.monotonic() - self._last_time > LINE_EVERY_S:
            self._last_progress, self._last_time = report.progress, time.monotonic()
            return True
        return False

    def _say(self, line: str, style: str | None = None) -> None:
        if self._bar is None:
            say((style, line))
            return
        from rich.text import Text

        # A style passed to `print` would apply to the bar below, too.
        self._bar.console.print(Text(line, style or ""), soft_wrap=False, no_wrap=True, overflow="ellipsis")


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TextColumn("{task.fields[numbers]}", markup=False),
        console=make_console(sys.stderr),
        auto_refresh=False,
        transient=True,
    )


def bar_numbers(report: TrainReport, evaluated: TrainReport | None) -> str:
    """Return the numbers beside the bar; `evaluated` is the last report with a loss on held-out text."""
    parts = [f"loss {report.loss:.3f}"]
    if evaluated is not None:
        parts.append(f"valid {evaluated.valid_loss:.3f}")
    bits = report.bits_per_byte if evaluated is None else evaluated.valid_bits_per_byte
    return " ".join([*parts, f"{bits:.2f} bits/byte", f"{report.tokens_per_s:,.0f} tok/s", _left(report)])


def report_line(report: TrainReport, *, alone: bool) -> str:
    """Return the progress in one line. `alone` means that there is no bar beside it."""
    if report.valid_loss is None:
        losses = f"loss {report.loss:.4f} ({report.bits_per_byte:.3f} bits/byte)"
    else:
        losses = f"loss {report.loss:.4f}  valid {report.valid_loss:.4f} ({report.valid_bits_per_byte:.3f} bits/byte)"
    if not alone:
        return f"step {report.step:,}  {losses}"
    return f"step {report.step:,}  {report.progress:.0%}  {losses}  {report.tokens_per_s:,.0f} tok/s  {_left(report)}"


def _left(report: TrainReport) -> str:
    return f"{_clock(report.seconds * (1 / report.progress - 1))} left"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole // 60 % 60:02}:{whole % 60:02}"


def result_lines(result: TrainResult) -> Iterator[str]:
    """Yield the lines of the result."""
    early = ", ended early because the held-out loss no longer fell" if result.stopped_early else ""
    yield f"{result.step:,} steps, {result.tokens:,} tokens in {_clock(result.seconds)}{early}"
    if result.valid_loss is not None:
        loss = f"loss {result.valid_loss:.4f} ({result.valid_bits_per_byte:.4f} bits/byte)"
        yield f"kept step {result.best_step:,}: on all the held-out text {loss}"


def _facts_line(facts: TrainFacts) -> str:
    texts = f"{facts.num_documents:,} texts, a {facts.per} each" if facts.num_documents > 1 else "1 text"
    parts = [
        f"{facts.architecture}, {facts.parameters / 1e6:.2f} M parameters, {facts.recipe['dtype']} on {facts.device}",
        f"{texts}: {facts.num_bytes:,} bytes, {facts.num_tokens:,} tokens",
    ]
    if facts.held_bytes:
        parts.append(f"{facts.held_bytes:,} bytes held out")
    if facts.entropy is not None:
        parts.append(f"the loss cannot go below {facts.entropy:.4f}")
    return "; ".join(parts)


# The model card and the curve.


def read_card(path: Path | None) -> str | None:
    """Return the user's own model card, or None without a path.

    Raises:
        InputError: the file cannot be read, or does not contain `FIGURES`.
    """
    if path is None:
        return None
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if FIGURES not in text:
        raise InputError(f"{path} does not contain {FIGURES}", hint="the table of results replaces it")
    return text


def model_card(out: Path, facts: TrainFacts, template: str | None, version: str) -> str:
    """Return the model card for the folder of a run that this `version` of genlm has finished."""
    made = f"GPT-2 trained from scratch with genlm {version}."
    if facts.base is not None:
        made = f"{_code(Path(facts.base).name)}, trained further with genlm {version}."
    card = template or CARD.replace("{name}", out.resolve().name).replace("{made}", made)
    result = json.loads((out / "log.jsonl").read_text("utf-8").splitlines()[-1])
    megabytes = (out / "model.safetensors").stat().st_size / 1e6
    rows = [f"| {name} | {value.replace('|', ' ')} |" for name, value in _rows(facts, result, megabytes)]
    return card.replace(FIGURES, "\n".join(["| | |", "|---|---|", *rows]))


def _rows(facts: TrainFacts, result: dict[str, Any], megabytes: float) -> list[tuple[str, str]]:
    recipe = facts.recipe
    shape = f"{facts.layers} layers, width {facts.width}, {facts.heads} heads, {facts.context} positions"
    files = "1 file" if facts.num_files == 1 else f"{facts.num_files:,} files"
    rows = [
        ("architecture", f"{_code(facts.architecture)}: {shape}"),
        ("parameters", f"{facts.parameters:,}"),
        ("weights", f"{facts.save_dtype} safetensors, {megabytes:.1f} MB"),
        ("tokenizer", f"{_code(Path(facts.tokenizer).name)}, {facts.vocab_size:,} entries"),
        ("training text", f"{_size(facts.num_bytes)}, {facts.num_tokens:,} tokens, from {files}"),
        ("steps", f"{result['step']:,}, together {result['tokens'] / 1e6:.1f} million tokens"),
        ("optimizer", _optimizer(recipe)),
        ("time", f"{result['seconds'] / 60:.1f} minutes on {facts.device}, in {recipe['dtype']}"),
    ]
    if result["valid_loss"] is not None:
        rows += [
            ("weights kept", f"of step {result['best_step']:,}, the best on held-out text"),
            ("held-out text", f"{_size(facts.held_bytes)}, never trained on"),
            ("held-out loss", f"{result['valid_loss']:.3f} nats a token"),
            ("held-out bits per byte", f"{result['valid_bits_per_byte']:.3f}, windows sliding by half the context"),
        ]
    return rows


def _optimizer(recipe: dict[str, Any]) -> str:
    name = {"adamw": "AdamW", "muon": "Muon, and AdamW for embeddings, norms and biases"}[recipe["optimizer"]]
    dropout = "" if not recipe["dropout"] else f", dropout {recipe['dropout']:g}"
    return f"{name}; learning rate {recipe['learning_rate']:g}, weight decay {recipe['weight_decay']:g}{dropout}"


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ')}`"


def _size(count: int) -> str:
    return f"{count:,} bytes" if count < 100_000 else f"{count / 1e6:.2f} MB"


def draw_curve(log: Path, picture: Path) -> None:
    """Draw the losses in a run's log, in training and on held-out text, as a PNG file."""
    # On its first run, matplotlib reports that it builds a font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    reports = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    _plot(axes, reports, "loss", label="in training", linewidth=1)
    if any(report.get("valid_loss") is not None for report in reports):
        # Without the result, which is measured differently.
        _plot(axes, reports[:-1], "valid_loss", label="on held-out text", marker="o")
    axes.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, format="png", dpi=120)


def _plot(axes: Any, reports: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(report["step"], report[key]) for report in reports if report.get(key) is not None]
    axes.plot([step for step, _ in points], [loss for _, loss in points], **style)
