"""`genlm generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from genlm.cli import options
from genlm.formats.output import open_output
from genlm.formats.prompt import read_prompt
from genlm.model.source import find_model
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, Generating, Limits, check_count
from genlm.views.generation import TextView, as_json, summary

if TYPE_CHECKING:
    pass


def generate(
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="Text to continue; - or nothing reads standard input.")
    ] = None,
    model: options.ModelName = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    allow_pickle: options.AllowPickle = False,
    strategy: options.StrategySpec = None,
    presets: options.Presets = None,
    num_beams: options.NumBeams = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    temperature: options.Temperature = None,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
    length_penalty: options.LengthPenalty = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Makes sampling repeatable; drawn and reported when absent.",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", help="Most tokens to generate.", rich_help_panel=options.LENGTH)
    ] = DEFAULT_NEW_TOKENS,
    num_return_sequences: Annotated[
        int,
        typer.Option(
            "--num-return-sequences", "-n", metavar="N", help="How many samples.", rich_help_panel=options.LENGTH
        ),
    ] = 1,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="End just before this text; may be repeated.", rich_help_panel=options.LENGTH
        ),
    ] = None,
    overflow: Annotated[
        Literal["error", "truncate-left"],
        typer.Option(help="What to do with a prompt too long for the context.", rich_help_panel=options.LENGTH),
    ] = "error",
    echo: Annotated[
        bool, typer.Option("--echo/--no-echo", help="Show the prompt before its text.", rich_help_panel=options.OUTPUT)
    ] = True,
    format: Annotated[
        Literal["text", "json"], typer.Option(help="Text, or one JSON object.", rich_help_panel=options.OUTPUT)
    ] = "text",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write here instead of stdout.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Continue a prompt.

    genlm generate "Once upon a time"
    genlm generate "Once upon a time" -s beam:num_beams=4 --max-new-tokens 80
    echo "Once upon a time" | genlm generate --top-p 0.9 --temperature 0.8 -n 3 --seed 7
    """
    flags = {
        "num_beams": num_beams,
        "top_k": top_k,
        "top_p": top_p,
        "temperature": temperature,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "length_penalty": length_penalty,
    }
    chosen = options.choose_strategy(strategy, presets, flags)
    limits = Limits(max_new_tokens, num_return_sequences, tuple(stop or ()), overflow)
    check_count(chosen, limits)
    text = read_prompt(prompt)
    notify = (lambda _: None) if quiet else options.notify
    if options.is_greedy_by_temperature(strategy, chosen, temperature):
        notify("temperature=0 means greedy: the likeliest token at every step")
    with open_output(output) as stream:
        folder = find_model(model, revision=revision, allow_pickle=allow_pickle, notify=notify)
        from genlm.model.load import load_model

        loaded = load_model(folder, device=device, dtype=dtype, allow_pickle=allow_pickle)
        generating = Generating(loaded, text, chosen, limits, seed)
        if format == "json":
            for _ in generating:
                pass
            stream.write(as_json(generating.result))
        else:
            _show(generating, stream, echo=echo)
    notify(summary(generating.result))


def _show(generating: Generating, stream: TextIO, *, echo: bool) -> None:
    """Stream the text. Ctrl-C ends the line and leaves what was written."""
    view = TextView(stream, generating.prompt, generating.limits.num_return_sequences, echo=echo)
    try:
        for event in generating:
            view.show(event)
    except KeyboardInterrupt:
        view.interrupt()
        raise
