"""Pages: each is one HTML file that loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from genlm.model.info import ModelInfo
from genlm.records.made_by import MadeBy
from genlm.views.terminal import one_line

SKELETON = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer class="soft">{footer}</footer>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def provenance(made_by: MadeBy, model: ModelInfo, seed: int | None = None) -> list[str]:
    """Return what made a result, in lines for a footer: versions and date, model and seed, and the command if any.

    Nothing in them acts on a terminal.
    """
    version = f"{model.version}, " if model.version else ""
    lines = [f"made by {made_by}", f"model {model.name} ({version}{model.dtype}, {model.device})"]
    if seed is not None:
        lines[1] += f", seed {seed}"
    if made_by.command is not None:
        lines.append(f"command: {made_by.command}")
    return [one_line(line) for line in lines]


def make_page(title: str, data: Any, name: str, *shared: str, footer: Sequence[str] = ()) -> str:
    """Return a page around `name`.html. After the `shared` scripts, `name`.js shows its `data`.

    Texts are only in the data, where they cannot end the script element, and escaped in the lines of the `footer`; the
    script inserts its texts as text.
    """
    parts = ("page", *shared, name)
    style, script = ("".join(_asset(f"{part}.{kind}") for part in parts) for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return SKELETON.format(
        policy=policy,
        title=html.escape(title),
        style=style,
        body=_asset(f"{name}.html").rstrip(),
        footer="<br>".join(html.escape(line) for line in footer),
        data=_inert(json.dumps(data, allow_nan=False, separators=(",", ":"))),
        script=script,
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _inert(json_text: str) -> str:
    """Return JSON without `</script>` and `<!--`. `json.dumps` has made it ASCII."""
    return json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
