"""`genlm generate`."""

from __future__ import annotations

from pathlib import Path

from genlm.cli import options
from genlm.cli.loading import load
from genlm.cli.strategies import choose_strategy
from genlm.decoding.completion import Completion
from genlm.formats.output import is_standard_output, open_output
from genlm.formats.prompt import check_utf8, read_prompt
from genlm.model.source import locate_model
from genlm.tasks.generate import DEFAULT_NEW_TOKENS, Generating, Limits, check_count
from genlm.views.generation import JsonView, TextView, summary
from genlm.views.python import Run, python_script
from genlm.views.spinner import Spinner
from genlm.views.terminal import notice


def generate(
    prompt: options.Prompt = None,
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
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    epsilon_cutoff: options.EpsilonCutoff = None,
    eta_cutoff: options.EtaCutoff = None,
    temperature: options.Temperature = None,
    repetition_penalty: options.RepetitionPenalty = None,
    no_repeat_ngram_size: options.NoRepeatNgramSize = None,
    length_penalty: options.LengthPenalty = None,
    seed: options.Seed = None,
    max_new_tokens: options.MaxNewTokens = DEFAULT_NEW_TOKENS,
    num_return_sequences: options.NumReturnSequences = 1,
    stop: options.Stop = None,
    overflow: options.OnOverflow = "error",
    echo: options.Echo = True,
    format: options.Format = "text",
    output: options.Output = None,
    print_python: options.PrintPython = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a prompt.

    genlm generate "Once upon a time"
    genlm generate "Once upon a time" -s beam:num_beams=4 --max-new-tokens 80
    echo "Once upon a time" | genlm generate --temperature 0.8 -n 3 --seed 7
    """
    notify = (lambda _: None) if quiet else notice
    flags = {
        "num_beams": num_beams,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "epsilon_cutoff": epsilon_cutoff,
        "eta_cutoff": eta_cutoff,
        "temperature": temperature,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "length_penalty": length_penalty,
    }
    chosen = choose_strategy(strategy, presets, flags, notify)
    stops = tuple(check_utf8(text, "a stop text") for text in stop or ())
    limits = Limits(max_new_tokens, num_return_sequences, stops, overflow)
    check_count(chosen, limits)
    text = read_prompt(prompt)
    if print_python:
        place, commit = locate_model(model, revision)
        run = Run(place, commit, device, dtype, text, chosen, max_new_tokens, num_return_sequences, seed, stops)
        _write_script(run, output)
        return
    with open_output(output) as stream, Spinner(enabled=not quiet) as spinner:
        loaded = load(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            allow_pickle=allow_pickle,
            notify=notify,
            spinner=spinner,
        )
        generating = Generating(loaded, text, chosen, limits, seed)
        view = JsonView(stream) if format == "json" else TextView(stream, text, num_return_sequences, echo=echo)
        _follow(generating, view, spinner, is_live=format == "text" and is_standard_output(output))
        spinner.stop()
        view.finish(generating.result)
    notify(summary(generating.result))


def _write_script(run: Run, output: Path | None) -> None:
    script = python_script(run)
    with open_output(output) as stream:
        stream.write(script)


def _follow(generating: Generating, view: TextView | JsonView, spinner: Spinner, *, is_live: bool) -> None:
    """Show what is generated. The spinner gives way to text that is live; without it, it counts."""
    spinner.say("generating")
    try:
        for event in generating:
            if is_live:
                spinner.stop()
            elif isinstance(event, Completion):
                spinner.say(f"generating: {len(generating.completions)} of {generating.limits.num_return_sequences}")
            view.show(event)
    except KeyboardInterrupt:
        view.interrupt()
        raise
