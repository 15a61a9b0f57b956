"""Attention weights: a heat map of one head in the terminal, and all heads as JSON or as a page."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from genlm.errors import UsageError
from genlm.model.pieces import Token
from genlm.records.inspection import AttentionCheck, AttentionMaps
from genlm.views.terminal import make_console, visible
from genlm.views.tokenize import token_record
from genlm.views.tokens import counted, label, shortened

if TYPE_CHECKING:
    from rich.text import Text

SHADES = " ·░▒▓█"
# Colours from weight 0 to 1. Both ends contrast with the number on them.
RAMP = ((20, 20, 40), (50, 40, 110), (110, 45, 130), (180, 60, 110), (235, 110, 80), (252, 190, 100), (252, 240, 190))
LABEL_WIDTH = 16
WIDEST_CELL = 4
# A page holds weights in steps of 1 / STEPS, in two bytes each, and most machines cannot open one with more weights.
STEPS = 65535
MOST_WEIGHTS = 40_000_000


@dataclass(frozen=True)
class _Grid:
    """A square of `size` weights on a terminal: each cell is `width` wide and shows `pooled` x `pooled` weights."""

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
    from rich.cells import set_cell_size
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
    digits = len(str(grid.size))
    if grid.has_numbers:
        numbers = "".join(f"{column:>{grid.width - 1}} " for column in range(grid.size))
        console.print(Text(" " * (digits + LABEL_WIDTH + 2) + numbers, style="dim"))
    for start in range(0, grid.size, grid.pooled):
        name = set_cell_size(shortened(_label(maps.tokens[start]), LABEL_WIDTH), LABEL_WIDTH)
        row = Text.assemble((f"{start:>{digits}} ", "dim"), name, " ")
        console.print(row + _cells(head.weights, start, grid))
    console.print()
    cell = "Weights in hundredths" if grid.has_numbers else "Brighter is more"
    if grid.pooled > 1:
        cell += f"; each cell is the largest of {grid.pooled} x {grid.pooled} weights"
    console.print(f"{cell}; a row sums to one.", soft_wrap=False)
    if maps.check is not None:
        console.print(describe_check(maps.check), soft_wrap=False)


def _label(token: Token) -> str:
    return label(token.text, None if token.whole else token.bytes)


def _cells(weights: Sequence[Sequence[float]], start: int, grid: _Grid) -> Text:
    from rich.text import Text

    row = Text()
    for column in range(0, min(grid.size, start + grid.pooled), grid.pooled):
        weight = max(max(line[column : column + grid.pooled]) for line in weights[start : start + grid.pooled])
        shade = SHADES[min(len(SHADES) - 1, int(weight**0.5 * len(SHADES)))] * grid.width
        shown = f"{round(100 * weight):>{grid.width - 1}} " if grid.has_numbers else shade
        row.append(shown, style=_style(weight))
    return row


def _style(weight: float) -> str:
    at = min(1.0, max(0.0, weight)) ** 0.5 * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    red, green, blue = (round(a + (b - a) * (at - low)) for a, b in zip(RAMP[low], RAMP[low + 1], strict=True))
    ink = "#ffffff" if at < len(RAMP) / 2 else "#000000"
    return f"{ink} on #{red:02x}{green:02x}{blue:02x}"


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
            # Without the digits that a float32 does not have.
            {
                "layer": head.layer,
                "head": head.head,
                "weights": [[float(f"{w:.8g}") for w in row] for row in head.weights],
            }
            for head in maps.heads
        ],
    }
    if maps.check is not None:
        record["check"] = asdict(maps.check)
    return record | {"made_by": asdict(maps.made_by)}


def attention_page(maps: AttentionMaps) -> str:
    """Return the page of all heads in `maps`.

    Raises:
        UsageError: more weights than a browser can hold.
    """
    size = len(maps.tokens)
    weights = len(maps.heads) * size * (size + 1) // 2
    if weights > MOST_WEIGHTS:
        raise UsageError(
            f"a page of {len(maps.heads)} heads over {size} tokens would be too large for a browser",
            code="page-too-large",
        )
    from genlm.views.pages import make_page, provenance

    model = maps.model
    data = {
        "about": f"{model.name} ({model.parameters:,} parameters), {maps.num_layers} layers of {maps.num_heads} heads, "
        f"{counted(size, 'token')}",
        "prompt": visible(maps.prompt),
        "tokens": [_label(token) for token in maps.tokens],
        "heads": [[head.layer, head.head] for head in maps.heads],
        "weights": _packed(maps),
        "check": describe_check(maps.check) if maps.check is not None else None,
    }
    return make_page("Attention", data, "attention", footer=provenance(maps.made_by, model))


def _packed(maps: AttentionMaps) -> str:
    """Return the lower triangles of all heads as base64: two bytes per weight, low byte first."""
    packed = array("H")
    for head in maps.heads:
        for number, row in enumerate(head.weights):
            packed.extend(round(weight * STEPS) for weight in row[: number + 1])
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode("ascii")
