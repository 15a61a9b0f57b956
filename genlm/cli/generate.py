"""`genlm generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import typer

from genlm.cli import options
from genlm.cli.command import check_alone, grouped
from genlm.cli.options import ModelOptions
from genlm.cli.signals import INTERRUPT_NOTICE
from genlm.cli.strategies import LengthOptions, StrategyOptions
from genlm.decoding.completion import Completion, Piece
from genlm.decoding.request import draw_seed
from genlm.formats.output import is_standard_output, open_output
from genlm.formats.texts import read_prompt
from genlm.model.source import locate_model
from genlm.records.generation import Generation
from genlm.tasks.generate import check_count, check_engine, continue_prompt
from genlm.views.generation import TextView, TraceView, as_json, replay_json, replay_text, summary, trace_page
from genlm.views.progress import Spinner
from genlm.views.terminal import notices

# Options that can be combined with --replay; the saved result holds all other settings.
WITH_REPLAY = {"replay", "allow_pickle", "format", "output", "quiet"}


@grouped
def generate(
    context: typer.Context,
    *,
    prompt: options.Prompt = None,
    replay: options.Replay = None,
    model: ModelOptions,
    engine: options.EngineName = "genlm",
    strategy: StrategyOptions,
    seed: options.Seed = None,
    length: LengthOptions,
    deterministic: options.Deterministic = False,
    echo: options.Echo = True,
    trace: options.Trace = False,
    format: options.Format = "text",
    output: options.Output = None,
    print_python: options.PrintPython = False,
    html: options.TraceHtml = None,
    quiet: options.Quiet = False,
) -> None:
    """Continue a prompt.

    genlm generate "Once upon a time"
    genlm generate "Once upon a time" -s beam:num_beams=4 --max-new-tokens 80
    echo "Once upon a time" | genlm generate --temperature 0.8 -n 3 --seed 7
    genlm generate --replay result.json
    """
    if replay is not None:
        check_alone(context, "--replay", only=WITH_REPLAY, hint="the saved result holds all other settings")
        _replay(replay, allow_pickle=model.allow_pickle, format=format, output=output, quiet=quiet)
        return
    notify = notices(quiet=quiet)
    chosen = strategy.choose(notify)
    limits = length.limits()
    check_count(chosen, limits)
    check_engine(engine, chosen, deterministic=deterministic)
    text = read_prompt(prompt)
    if print_python:
        from genlm.views.python import ScriptOptions, python_script

        place, commit = locate_model(model.name, model.revision)
        most, count = limits.max_new_tokens, limits.num_return_sequences
        script = python_script(
            ScriptOptions(place, commit, model.device, model.dtype, text, chosen, most, count, seed, limits.stop)
        )
        with open_output(output) as stream:
            stream.write(script)
        return
    with (
        open_output(output) as stream,
        options.open_page(html, output) as page,
        Spinner(enabled=not quiet) as spinner,
    ):
        loaded = model.load(notify, spinner, engine, identify=format == "json" or page is not None)
        if chosen.samples:
            seed = draw_seed() if seed is None else seed
            INTERRUPT_NOTICE.set("" if quiet else f"interrupted; --seed {seed} generates the same text again")
        traced = trace or page is not None
        events = continue_prompt(loaded, text, chosen, limits, seed, trace=traced, deterministic=deterministic)
        count = limits.num_return_sequences
        view = None if format == "json" else _view(stream, text, count, echo=echo, traced=traced)
        result = _show(events, count, view, spinner, is_live=is_standard_output(output))
        spinner.stop()
        if view is None:
            stream.write(as_json(result))
        else:
            view.finish()
        if page is not None:
            page.write(trace_page(result))
    notify(summary(result))


def _view(stream: TextIO, prompt: str, count: int, *, echo: bool, traced: bool) -> TextView:
    kind = TraceView if traced and stream.isatty() else TextView
    return kind(stream, prompt, count, echo=echo)


def _show(
    events: Iterator[Piece | Completion | Generation],
    count: int,
    view: TextView | None,
    spinner: Spinner,
    *,
    is_live: bool,
) -> Generation:
    """Show events as they come and return the result. The spinner counts completions until live text replaces it."""
    spinner.say("generating")
    done = 0
    try:
        for event in events:
            if isinstance(event, Generation):
                return event
            done += isinstance(event, Completion)
            if view is not None and is_live and isinstance(event, view.shows):
                spinner.stop()
            elif isinstance(event, Completion):
                spinner.say(f"generating: {done} of {count}")
            if view is not None:
                view.show(event)
    except KeyboardInterrupt:
        if view is not None:
            view.interrupt()
        raise
    raise ValueError("the events end without a result")


def _replay(path: Path, *, allow_pickle: bool, format: str, output: Path | None, quiet: bool) -> None:
    """Run a saved result again and report whether its output is the same. Exit with code 1 if it is not."""
    from genlm.tasks.saved import read_result, run_again

    notify = notices(quiet=quiet)
    saved = read_result(path)
    with open_output(output) as stream, Spinner(enabled=not quiet) as spinner:
        info = saved.model
        model = ModelOptions(info.name, info.revision, info.device, info.dtype, allow_pickle)  # type: ignore[arg-type]
        loaded = model.load(notify, spinner, saved.engine)
        spinner.say("generating")
        replay = run_again(saved, loaded)
        spinner.stop()
        stream.write(replay_json(replay) if format == "json" else replay_text(replay))
    notify(summary(replay.generation))
    if replay.difference is not None:
        raise typer.Exit(1)
