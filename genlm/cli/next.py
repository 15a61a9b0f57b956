"""`genlm next`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from genlm.cli import options
from genlm.cli.command import grouped
from genlm.cli.options import ModelOptions
from genlm.cli.strategies import choose_strategy
from genlm.errors import UsageError
from genlm.formats.output import open_output
from genlm.formats.texts import check_utf8, read_prompt_or_file
from genlm.records.inspection import Comparison, NextToken, Tree
from genlm.records.serialize import as_object
from genlm.tasks.next import DEFAULT_TOP, check_at_least_one, compare_continuations, grow_tree, next_token
from genlm.views.next import next_record, show_next
from genlm.views.progress import Spinner
from genlm.views.terminal import notices

look_option = options.panel("What to show")


@grouped
def next_command(
    *,
    prompt: options.PromptToRead = None,
    file: options.PromptFile = None,
    top: Annotated[
        int | None,
        look_option(metavar="N", help="How many of the most likely tokens to show.", show_default=str(DEFAULT_TOP)),
    ] = None,
    candidates: Annotated[
        list[str] | None,
        look_option(
            metavar="TEXTS",
            help='Compare these continuations, such as " cat, dog"; \\, is a comma within one; may be repeated.',
        ),
    ] = None,
    steps: Annotated[
        int | None, look_option(metavar="K", help="Show the K most likely continuations, K tokens long, as a tree.")
    ] = None,
    branches: Annotated[int | None, look_option(metavar="B", help="With --steps: B branches instead of K.")] = None,
    strategy: Annotated[
        str | None,
        look_option(
            "--strategy",
            "-s",
            metavar="SPEC",
            help="Also show the probabilities under this strategy, such as top-p:top_p=0.9, or @NAME for a preset.",
        ),
    ] = None,
    presets: Annotated[Path | None, look_option(metavar="FILE", help="TOML file of named strategies.")] = None,
    overflow: options.OnOverflow = "error",
    model: ModelOptions,
    format: options.Format = "text",
    output: options.Output = None,
    quiet: options.Quiet = False,
) -> None:
    """Show the most likely next tokens with their probabilities.

    genlm next "Once upon a"
    genlm next "Once upon a" -s top-p:top_p=0.9
    genlm next "The king had three" --candidates " sons, daughters"
    genlm next "Once upon a" --steps 3
    """
    notify = notices(quiet=quiet)
    chosen = None
    if strategy is not None or presets is not None:
        chosen = choose_strategy(strategy, presets, {}, notify)
    given = _read_candidates(candidates)
    _check(top, given, steps, branches)
    text = read_prompt_or_file(prompt, file)
    with open_output(output) as stream, Spinner(enabled=not quiet) as spinner:
        loaded = model.load(notify, spinner, identify=format == "json")
        found: NextToken | Comparison | Tree
        if given:
            found = compare_continuations(loaded, text, given, strategy=chosen, overflow=overflow)
        elif steps is not None:
            found = grow_tree(loaded, text, steps, branches or steps, strategy=chosen, overflow=overflow)
        else:
            found = next_token(loaded, text, top=top or DEFAULT_TOP, strategy=chosen, overflow=overflow)
        spinner.stop()
        if format == "json":
            stream.write(as_object(next_record(found)))
        else:
            show_next(stream, found)


def _check(top: int | None, candidates: list[str], steps: int | None, branches: int | None) -> None:
    for name, value in (("--top", top), ("--steps", steps), ("--branches", branches)):
        if value is not None:
            check_at_least_one(name, value)
    asked = [name for name, given in (("--top", top), ("--candidates", candidates), ("--steps", steps)) if given]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} cannot be combined")
    if branches is not None and steps is None:
        raise UsageError("--branches needs --steps")


def _read_candidates(given: list[str] | None) -> list[str]:
    """Return the continuations, split at commas except those after a backslash."""
    texts = [check_utf8(text, "a candidate") for text in given or ()]
    found = [part.replace("\\,", ",") for text in texts for part in re.split(r"(?<!\\),", text)]
    if not all(found):
        raise UsageError(
            "a candidate must not be empty", hint='commas separate candidates, as in " cat, dog"; \\, is a comma'
        )
    return found
