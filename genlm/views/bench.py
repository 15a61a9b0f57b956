"""The rows of a benchmark, as a table or as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from genlm.records.bench import BenchRow
from genlm.records.made_by import MadeBy

HEADINGS = ("dtype", "rows", "prefill tok/s", "decode tok/s", "ms/step", "peak MB", "of roofline")


class BenchView:
    """Prints each row as soon as it is measured; as JSON, all of them at the end."""

    def __init__(self, format: str) -> None:
        self._as_json = format == "json"
        self._rows: list[BenchRow] = []

    def show(self, row: BenchRow) -> None:
        """Print a row, or keep it for the JSON object."""
        self._rows.append(row)
        if self._as_json:
            return
        if len(self._rows) == 1:
            print(_line(HEADINGS))
        print(_line(_cells(row)), flush=True)

    def finish(self, notify: Callable[[str], None]) -> None:
        """Notify of what all rows have in common, or print the JSON object."""
        first = self._rows[0]
        if self._as_json:
            shared = ("model", "bandwidth")
            rows = [
                {"dtype": row.model.dtype, **{name: value for name, value in vars(row).items() if name not in shared}}
                for row in self._rows
            ]
            record = {
                "model": asdict(first.model) | {"dtype": None},
                "bandwidth_bytes_per_s": first.bandwidth,
                "rows": rows,
                "made_by": asdict(MadeBy.now()),
            }
            print(json.dumps(record, indent=2))
            return
        notify(f"{first.model.name}; roofline: {first.bandwidth / 1e9:.1f} GB/s read on {first.model.device}")
        for note in dict.fromkeys(row.cuda_graph for row in self._rows if row.cuda_graph):
            notify(f"decode steps as a CUDA graph: {note}")


def _cells(row: BenchRow) -> tuple[str, ...]:
    return (
        row.model.dtype,
        str(row.rows),
        f"{row.prefill_tokens_per_s:,.0f}",
        f"{row.decode_tokens_per_s:,.0f}",
        f"{row.ms_per_step:.2f}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}",
        f"{row.roofline_share:.0%}",
    )


def _line(cells: tuple[str, ...]) -> str:
    # At most 80 columns in all.
    widths = [max(len(heading), 7) + 2 for heading in HEADINGS[1:]]
    return f"{cells[0]:<8}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], widths, strict=True))
