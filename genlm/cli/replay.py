"""`genlm generate --replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from genlm.cli.command import check_saved_alone
from genlm.cli.loading import ModelOptions
from genlm.formats.output import open_output
from genlm.tasks.replay import read_result
from genlm.views.generation import summary
from genlm.views.replay import replay_json, replay_text
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices

# What a result does not tell.
ALLOWED = {"replay", "allow_pickle", "format", "output", "quiet"}


def check_nothing_else(context: typer.Context) -> None:
    """Raise UsageError where an option is given that the saved result decides."""
    check_saved_alone(context, "--replay", "result", only=ALLOWED)


def replay_result(
    path: Path, *, allow_pickle: bool, format: Literal["text", "json"], output: Path | None, quiet: bool
) -> None:
    """Run a saved result again and say whether it is the same. Exits with code 1 where it is not."""
    notify = notices(quiet=quiet)
    saved = read_result(path)
    with open_output(output) as stream, Spinner(enabled=not quiet) as spinner:
        model = ModelOptions(saved.model, saved.revision, saved.device, saved.dtype, allow_pickle)
        loaded = model.load(notify, spinner, saved.engine)
        spinner.say("generating")
        result = saved.run(loaded)
        done = saved.compare(result, loaded)
        spinner.stop()
        stream.write(replay_json(done) if format == "json" else replay_text(done))
    notify(summary(result))
    if done.difference is not None:
        raise typer.Exit(1)
