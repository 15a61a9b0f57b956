"""The model card of a trained model, with the results of its run, and the curve of its losses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from genlm.errors import InputError
from genlm.records.train import TrainFacts

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


def read_card(path: Path | None) -> str | None:
    """Return the user's own model card, in which `{figures}` marks the place of the table, or None without a path.

    Raises:
        InputError: the file cannot be read or contains no `{figures}`.
    """
    if path is None:
        return None
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if FIGURES not in text:
        raise InputError(f"{path} has no place for the figures", hint=f"{FIGURES} in it becomes the table")
    return text


def model_card(out: Path, facts: TrainFacts, template: str | None, version: str) -> str:
    """Return the card for the folder of a run that this `version` of genlm has finished."""
    made = f"GPT-2 trained from scratch with genlm {version}."
    if facts.base is not None:
        made = f"{_code(Path(facts.base).name)}, trained further with genlm {version}."
    card = template or CARD.replace("{name}", out.resolve().name).replace("{made}", made)
    result = json.loads((out / "log.jsonl").read_text("utf-8").splitlines()[-1])
    megabytes = (out / "model.safetensors").stat().st_size / 1e6
    return card.replace(FIGURES, _table(_rows(facts, result, megabytes)))


def _rows(facts: TrainFacts, result: dict[str, Any], megabytes: float) -> list[tuple[str, str]]:
    recipe = facts.recipe
    shape = f"{facts.layers} layers, width {facts.width}, {facts.heads} heads, {facts.context} positions"
    rows = [
        ("architecture", f"{_code(facts.architecture)}: {shape}"),
        ("parameters", f"{facts.parameters:,}"),
        ("weights", f"{facts.save_dtype} safetensors, {megabytes:.1f} MB"),
        ("tokenizer", f"{_code(Path(facts.tokenizer).name)}, {facts.vocab_size:,} entries"),
        (
            "training text",
            f"{_size(facts.num_bytes)}, {facts.num_tokens:,} tokens, from {_count(facts.num_files, 'file')}",
        ),
        (
            "steps",
            f"{result['step']:,}, together {result['tokens'] / 1e6:.1f} million tokens",
        ),
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


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value.replace('|', ' ')} |" for name, value in rows)])


def _code(text: str) -> str:
    return f"`{text.replace('`', ' ')}`"


def _size(count: int) -> str:
    return f"{count:,} bytes" if count < 100_000 else f"{count / 1e6:.2f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def draw_curve(log: Path, picture: Path) -> None:
    """Draw the losses in a run's log, in training and on held-out text, and write a PNG file."""
    # It reports that it builds a font cache when it runs for the first time.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    reports = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    _plot(axes, reports, "loss", label="in training", linewidth=1)
    if any(report.get("valid_loss") is not None for report in reports):
        _plot(
            axes, [report for report in reports if "loss" in report], "valid_loss", label="on held-out text", marker="o"
        )
    axes.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, format="png", dpi=120)


def _plot(axes: Any, reports: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(report["step"], report[key]) for report in reports if report.get(key) is not None]
    axes.plot([step for step, _ in points], [loss for _, loss in points], **style)
