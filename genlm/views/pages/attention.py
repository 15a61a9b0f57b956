"""The attention page: a small picture of every head, which can be enlarged."""

from __future__ import annotations

import base64
import sys
from array import array

from genlm.errors import UsageError
from genlm.records.attention import AttentionMaps
from genlm.views.attention import describe_check
from genlm.views.pages import make_page, provenance
from genlm.views.terminal import visible
from genlm.views.tokens import counted, label

STEPS = 65535
# Most machines cannot open a page with more weights (two bytes each, and a third more as text).
MOST_WEIGHTS = 40_000_000


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
    model = maps.model
    data = {
        "about": f"{model.name} ({model.parameters:,} parameters), {maps.num_layers} layers of {maps.num_heads} heads, "
        f"{counted(size, 'token')}",
        "prompt": visible(maps.prompt),
        "tokens": [label(token.text, None if token.whole else token.bytes) for token in maps.tokens],
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
