"""`genlm merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genlm.cli import options
from genlm.errors import OutputError
from genlm.views.terminal import notices


def merge(
    *,
    parts: Annotated[str, typer.Argument(metavar="PARTS", help="The folder, a path or an s3:// or gs:// address.")],
    output: Annotated[
        Path,
        options.output_option("--output", "-o", metavar="FILE", help="The merged file: .jsonl, .csv or .parquet."),
    ],
    csv_safe: options.CsvSafe = False,
    overwrite: Annotated[bool, options.output_option("--overwrite", help="Replace the file if it exists.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge the parts that genlm batch --runner ray wrote into one file.

    genlm merge parts -o completions.jsonl

    The records are in the order of the input.
    """
    from genlm.tasks.cluster.parts import merge_parts

    if output.exists() and not overwrite:
        raise OutputError(f"{output} already exists", hint="--overwrite replaces it")
    manifest = merge_parts(parts, output, csv_safe=csv_safe)
    failed = f", {manifest.failed:,} of them with an error" if manifest.failed else ""
    notices(quiet=quiet)(f"{manifest.total:,} records are in {output}{failed}")
