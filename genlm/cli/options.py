"""The options of the commands, each with its help, so that one option is one thing in all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer


def panel(title: str) -> Callable[..., Any]:
    """What makes the options of one panel of the help."""
    return partial(typer.Option, rich_help_panel=title)


def _silence_downloads(quiet: bool) -> bool:
    """Take the Hub client's progress bars away: it reads this when it is imported."""
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return quiet


input_option = panel("Input")
model_option = panel("Model")
strategy_option = panel("Strategy")
length_option = panel("Length and count")
output_option = panel("Output")
quiet_option = partial(output_option, "--quiet", "-q", callback=_silence_downloads)

Prompt: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="Text to continue; - or nothing reads standard input.")
]

ModelName: TypeAlias = Annotated[
    str | None,
    model_option(
        "--model",
        "-m",
        metavar="NAME",
        envvar="GENLM_MODEL",
        help="fable (bundled), a local folder, or a Hub id such as gpt2. Without it: gpt2, or fable where gpt2 is "
        "neither cached nor to be reached.",
    ),
]
Revision: TypeAlias = Annotated[str | None, model_option(metavar="REF", help="Branch, tag or commit of a Hub model.")]
Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    model_option(metavar="DEVICE", help="cpu, cuda, mps, or auto: the best there is."),
]
Dtype: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8"],
    model_option(
        metavar="DTYPE",
        help="float32, bfloat16, float16, int8 (GPT-2 on the CPU, the fastest there), or auto: float32 on the CPU, the "
        "checkpoint's own elsewhere.",
    ),
]
EngineName: TypeAlias = Annotated[
    Literal["genlm", "transformers"],
    model_option(
        "--engine",
        metavar="ENGINE",
        help="genlm, or transformers: its own generate, every field pinned, for the kinds that it has.",
    ),
]
AllowPickle: TypeAlias = Annotated[
    bool, model_option("--allow-pickle", help="Also load pickled weights, if you trust their source.")
]

StrategySpec: TypeAlias = Annotated[
    str | None,
    strategy_option(
        "--strategy",
        "-s",
        metavar="SPEC",
        help="KIND[:FIELD=VALUE,...], as beam:num_beams=4, or @NAME for a preset; genlm strategies lists the kinds. "
        "Without it, the flags below select the kind; the default is top-p:top_p=0.9.",
    ),
]
Presets: TypeAlias = Annotated[
    Path | None,
    strategy_option(
        metavar="FILE",
        help="TOML file of named strategies, searched before strategies.toml in your configuration folder.",
    ),
]
Seed: TypeAlias = Annotated[
    int | None, strategy_option(metavar="N", help="Makes a draw repeatable; drawn and reported when absent.")
]

MaxNewTokens: TypeAlias = Annotated[int, length_option(metavar="N", help="Most tokens to generate, 1 or more.")]
NumReturnSequences: TypeAlias = Annotated[
    int, length_option("--num-return-sequences", "-n", metavar="N", help="How many completions.")
]
Stop: TypeAlias = Annotated[
    list[str] | None, length_option(metavar="TEXT", help="End just before this text; may be repeated.")
]
OnOverflow: TypeAlias = Annotated[
    Literal["error", "truncate-left"],
    length_option(
        "--overflow",
        metavar="HOW",
        help="For a prompt too long for the context: error, or truncate-left to keep its end.",
    ),
]

Echo: TypeAlias = Annotated[bool, output_option("--echo/--no-echo", help="Show the prompt before its continuation.")]
Format: TypeAlias = Annotated[
    Literal["text", "json"], output_option("--format", metavar="FORMAT", help="text, or json: one object.")
]
Output: TypeAlias = Annotated[
    Path | None, output_option("--output", "-o", metavar="FILE", help="Write here, not to stdout.")
]
PrintPython: TypeAlias = Annotated[
    bool,
    output_option(
        "--print-python", help="Print a Python script that does the same with transformers alone, and generate nothing."
    ),
]
Quiet: TypeAlias = Annotated[bool, quiet_option(help="No notices, spinner or summary on stderr.")]

Trace: TypeAlias = Annotated[
    bool,
    output_option("--trace", help="What the model made of every token: on a terminal as colours, in JSON as numbers."),
]
TraceHtml: TypeAlias = Annotated[
    Path | None,
    output_option(
        "--html", metavar="FILE", help="Also write a page where each token shows what else was likely; means --trace."
    ),
]
Deterministic: TypeAlias = Annotated[
    bool,
    strategy_option(
        "--deterministic",
        help="Decode each completion by itself, so that not even float rounding depends on the others. Slower.",
    ),
]
Replay: TypeAlias = Annotated[
    Path | None,
    input_option(
        metavar="FILE", help="Run a result of --format json again, and say whether it is the same. Exit code 1 if not."
    ),
]

PromptToRead: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="The text to look at; - or nothing reads standard input.")
]
PromptFile: TypeAlias = Annotated[
    Path | None, input_option("--file", metavar="FILE", help="Take the prompt from this file.")
]
TextArgument: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The text; - or nothing reads standard input.")
]
Files: TypeAlias = Annotated[
    list[Path] | None,
    input_option("--file", metavar="FILE", help="Take the texts from this file; may be repeated; - is standard input."),
]
PerWhat: TypeAlias = Annotated[
    Literal["line", "file"] | None,
    input_option(
        metavar="UNIT",
        help="What one text is: a line, or a file as a whole. Without it: a line of a --file, all of what is piped in.",
    ),
]
FormatOfMany: TypeAlias = Annotated[
    Literal["text", "json", "jsonl"],
    output_option("--format", metavar="FORMAT", help="text, json: one object, or jsonl: an object a text."),
]
Html: TypeAlias = Annotated[Path | None, output_option(metavar="FILE", help="Also write a page to open in a browser.")]
