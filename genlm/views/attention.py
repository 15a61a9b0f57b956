"""Attention weights: a heat map of one head in the terminal, and all heads as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from genlm.model.pieces import Token
from genlm.records.attention import AttentionCheck, AttentionMaps
from genlm.views.terminal import make_console
from genlm.views.tokenize import token_record
from genlm.views.tokens import label, shortened

if TYPE_CHECKING:
    from rich.text import Text

SHADES = " ·░▒▓█"
# Colours from weight 0 to 1. Both ends contrast with the number on them.
RAMP = ((20, 20, 40), (50, 40, 110), (110, 45, 130), (180, 60, 110), (235, 110, 80), (252, 190, 100), (252, 240, 190))
LABEL_WIDTH = 16
WIDEST_CELL = 4


@dataclass(frozen=True)
class _Grid:
    """How a square of `size` weights fits a terminal: cells `width` wide, each of `pooled` x `pooled` weights."""

    size: int
    pooled: int
    width: int

    @classmethod
    def fitting(cls, size: int, columns: int) -> _Grid:
        available = columns - len(str(size)) - LABEL_WIDTH - 2
        pooled = -(-size // available)
        return cls(size, pooled, min(WIDEST_CELL, available // -(-size // pooled)))

    @property
    def has_numbers(self) -> bool:
        """Whether there is room for numbers in the cells."""
        return self.width == WIDEST_CELL


def show_attention(stream: TextIO, maps: AttentionMaps) -> None:
    """Write the first head as a heat map: a row for each token, a column for each token it attends to."""
    from rich.text import Text

    console = make_console(stream)
    head = maps.heads[0]
    console.print(
        f"layer {head.layer} (of 0-{maps.num_layers - 1}), head {head.head} (of 0-{maps.num_heads - 1}): "
        "what each token, a row, attends to",
        style="bold",
        soft_wrap=False,
    )
    grid = _Grid.fitting(len(head.weights), console.width)
    if grid.has_numbers:
        console.print(Text(" " * _margin(grid) + _numbers(grid), style="dim"))
    for start in range(0, grid.size, grid.pooled):
        console.print(_label(maps.tokens[start], start, grid) + _cells(head.weights, start, grid))
    console.print()
    for line in _remarks(grid, maps.check):
        console.print(line, soft_wrap=False)


def _margin(grid: _Grid) -> int:
    return len(str(grid.size)) + LABEL_WIDTH + 2


def _numbers(grid: _Grid) -> str:
    return "".join(f"{column:>{grid.width - 1}} " for column in range(grid.size))


def _label(token: Token, number: int, grid: _Grid) -> Text:
    from rich.cells import set_cell_size
    from rich.text import Text

    name = shortened(label(token.text, None if token.whole else token.bytes), LABEL_WIDTH)
    digits = len(str(grid.size))
    return Text.assemble((f"{number:>{digits}} ", "dim"), set_cell_size(name, LABEL_WIDTH), " ")


def _cells(weights: Sequence[Sequence[float]], start: int, grid: _Grid) -> Text:
    from rich.text import Text

    row = Text()
    for column in range(0, min(grid.size, start + grid.pooled), grid.pooled):
        weight = _pool(weights, start, column, grid.pooled)
        row.append(_cell(weight, grid.width), style=_style(weight))
    return row


def _pool(weights: Sequence[Sequence[float]], row: int, column: int, pooled: int) -> float:
    """Return the largest weight in a square."""
    return max(max(line[column : column + pooled]) for line in weights[row : row + pooled])


def _cell(weight: float, width: int) -> str:
    """Return the weight in hundredths if there is room for a number, otherwise a shade of grey."""
    if width >= WIDEST_CELL:
        return f"{round(100 * weight):>{width - 1}} "
    return SHADES[min(len(SHADES) - 1, int(weight**0.5 * len(SHADES)))] * width


def _style(weight: float) -> str:
    at = min(1.0, max(0.0, weight)) ** 0.5 * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    red, green, blue = (round(a + (b - a) * (at - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True))
    ink = "#ffffff" if at < len(RAMP) / 2 else "#000000"
    return f"{ink} on #{red:02x}{green:02x}{blue:02x}"


def _remarks(grid: _Grid, check: AttentionCheck | None) -> list[str]:
    cell = "Weights in hundredths" if grid.has_numbers else "Brighter is more"
    if grid.pooled > 1:
        cell += f"; each cell is the largest of {grid.pooled} x {grid.pooled} weights"
    lines = [f"{cell}; a row sums to one."]
    if check is not None:
        lines.append(describe_check(check))
    return lines


def describe_check(check: AttentionCheck) -> str:
    """Return the result of the check, over all layers and heads, as a sentence."""
    return (
        f"Check, all layers and heads: largest difference from softmax(QK^T / sqrt(d_k)) recomputed from Q and K "
        f"{check.largest_difference:.1e}; of a row's sum from one {check.largest_row_error:.1e}; "
        f"largest weight above the diagonal {check.largest_above_diagonal:g}"
    )


def attention_record(maps: AttentionMaps) -> dict[str, Any]:
    """Return the JSON object of `genlm attention --format json`."""
    record = {
        "model": asdict(maps.model),
        "prompt": maps.prompt,
        "prompt_token_ids": [token.id for token in maps.tokens],
        "tokens": [token_record(token) for token in maps.tokens],
        "num_layers": maps.num_layers,
        "num_heads": maps.num_heads,
        "attention": [
            {"layer": head.layer, "head": head.head, "weights": [[_short(w) for w in row] for row in head.weights]}
            for head in maps.heads
        ],
    }
    if maps.check is not None:
        record["check"] = asdict(maps.check)
    return record | {"made_by": asdict(maps.made_by)}


def _short(weight: float) -> float:
    """Drop the digits that a float32 does not have."""
    return float(f"{weight:.8g}")
