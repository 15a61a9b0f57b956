"""The loss curve of a training run, as a picture."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, BinaryIO


def draw_curve(log: Path, picture: BinaryIO) -> None:
    """Draw the losses in a run's log: of its steps, and on held-out text."""
    # On its first run it reports that it builds a font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    reports = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    _draw(axes, reports, "loss", label="in training", linewidth=1)
    if any(report.get("valid_loss") is not None for report in reports):
        _draw(
            axes, [report for report in reports if "loss" in report], "valid_loss", label="on held-out text", marker="o"
        )
    axes.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, format="png", dpi=120)


def _draw(axes: Any, reports: list[dict[str, Any]], key: str, **style: Any) -> None:
    points = [(report["step"], report[key]) for report in reports if report.get(key) is not None]
    axes.plot([step for step, _ in points], [loss for _, loss in points], **style)
