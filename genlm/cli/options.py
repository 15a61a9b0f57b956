"""The options of the commands, each with its help, so that one option is one thing in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

INPUT, MODEL, STRATEGY, LENGTH, OUTPUT = "Input", "Model", "Strategy", "Length and count", "Output"

Prompt: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="Text to continue; - or nothing reads standard input.")
]

ModelName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        envvar="GENLM_MODEL",
        help="fable (bundled), a local folder, or a Hub id such as gpt2. Without it: gpt2, or fable where gpt2 is "
        "neither cached nor to be reached.",
        rich_help_panel=MODEL,
    ),
]
Revision: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="REF", help="Branch, tag or commit of a Hub model.", rich_help_panel=MODEL),
]
Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(metavar="DEVICE", help="cpu, cuda, mps, or auto: the best there is.", rich_help_panel=MODEL),
]
Dtype: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8"],
    typer.Option(
        metavar="DTYPE",
        help="float32, bfloat16, float16, or auto: float32 on the CPU, the checkpoint's own elsewhere.",
        rich_help_panel=MODEL,
    ),
]
EngineName: TypeAlias = Annotated[
    Literal["genlm", "transformers"],
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="genlm, or transformers: its own generate, every field pinned, for the kinds that it has.",
        rich_help_panel=MODEL,
    ),
]
AllowPickle: TypeAlias = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Also load pickled weights, if you trust their source.", rich_help_panel=MODEL),
]

StrategySpec: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        "-s",
        metavar="SPEC",
        help="KIND[:FIELD=VALUE,...], as beam:num_beams=4, or @NAME for a preset; genlm strategies lists the kinds. "
        "Without it the flags below tell the kind; without those it is top-p:top_p=0.9.",
        rich_help_panel=STRATEGY,
    ),
]
Presets: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file of named strategies; your own are in strategies.toml in your configuration folder.",
        rich_help_panel=STRATEGY,
    ),
]
NumBeams: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Beam search with N beams, 2 or more.", rich_help_panel=STRATEGY)
]
TopK: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="K", help="Draw from the K likeliest tokens, 1 or more.", rich_help_panel=STRATEGY),
]
TopP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Draw from the fewest tokens that hold a probability of P together, above 0, at most 1.",
        rich_help_panel=STRATEGY,
    ),
]
MinP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Draw from the tokens at least P times as likely as the likeliest, above 0, at most 1.",
        rich_help_panel=STRATEGY,
    ),
]
TypicalP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Draw from the tokens of the most typical surprise, P in all, above 0, at most 1.",
        rich_help_panel=STRATEGY,
    ),
]
EpsilonCutoff: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P", help="Draw from the tokens of probability P or more, between 0 and 1.", rich_help_panel=STRATEGY
    ),
]
EtaCutoff: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="As --epsilon-cutoff, but the less is cut the flatter the distribution, between 0 and 1.",
        rich_help_panel=STRATEGY,
    ),
]
Temperature: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="T", help="Below 1 the likely gets likelier, above 1 less so; 0 is greedy.", rich_help_panel=STRATEGY
    ),
]
RepetitionPenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Above 1 a token that was there already gets less likely.", rich_help_panel=STRATEGY
    ),
]
NoRepeatNgramSize: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="No N tokens in a row come twice; 0 is off.", rich_help_panel=STRATEGY)
]
BadWord: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="Never these words, nor after a space; may be repeated.", rich_help_panel=STRATEGY
    ),
]
LogitBias: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID:BIAS", help="Add BIAS to the logit of the token ID; may be repeated.", rich_help_panel=STRATEGY
    ),
]
LengthPenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="X", help="Beam search: above 0 favours longer texts; -50 to 50.", rich_help_panel=STRATEGY),
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Makes a draw repeatable; drawn and reported when absent.", rich_help_panel=STRATEGY
    ),
]

MaxNewTokens: TypeAlias = Annotated[
    int, typer.Option(metavar="N", help="Most tokens to generate, 1 or more.", rich_help_panel=LENGTH)
]
NumReturnSequences: TypeAlias = Annotated[
    int,
    typer.Option("--num-return-sequences", "-n", metavar="N", help="How many completions.", rich_help_panel=LENGTH),
]
Stop: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End just before this text; may be repeated.", rich_help_panel=LENGTH),
]
OnOverflow: TypeAlias = Annotated[
    Literal["error", "truncate-left"],
    typer.Option(
        "--overflow",
        metavar="HOW",
        help="For a prompt too long for the context: error, or truncate-left to keep its end.",
        rich_help_panel=LENGTH,
    ),
]

Echo: TypeAlias = Annotated[
    bool, typer.Option("--echo/--no-echo", help="Show the prompt before its continuation.", rich_help_panel=OUTPUT)
]
Format: TypeAlias = Annotated[
    Literal["text", "json"],
    typer.Option("--format", metavar="FORMAT", help="text, or json: one object.", rich_help_panel=OUTPUT),
]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write here, not to stdout.", rich_help_panel=OUTPUT),
]
PrintPython: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--print-python",
        help="Print a Python script that does the same with transformers alone, and generate nothing.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notices, spinner or summary on stderr.", rich_help_panel=OUTPUT)
]

Trace: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="What the model made of every token: on a terminal as colours, in JSON as numbers.",
        rich_help_panel=OUTPUT,
    ),
]
TraceHtml: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Also write a page where each token shows what else was likely; means --trace.",
        rich_help_panel=OUTPUT,
    ),
]
Deterministic: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Decode each completion by itself, so that not even float rounding depends on the others. Slower.",
        rich_help_panel=STRATEGY,
    ),
]
Replay: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Run a result of --format json again, and say whether it is the same. Exit code 1 if not.",
        rich_help_panel=INPUT,
    ),
]

PromptToRead: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="The text to look at; - or nothing reads standard input.")
]
PromptFile: TypeAlias = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Take the prompt from this file.", rich_help_panel=INPUT)
]
TextArgument: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The text; - or nothing reads standard input.")
]
Files: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="Take the texts from this file; may be repeated; - is standard input.",
        rich_help_panel=INPUT,
    ),
]
PerWhat: TypeAlias = Annotated[
    Literal["line", "file"] | None,
    typer.Option(
        metavar="UNIT",
        help="What one text is: a line, or a file as a whole. Without it: a line of a --file, all of what is piped in.",
        rich_help_panel=INPUT,
    ),
]
FormatOfMany: TypeAlias = Annotated[
    Literal["text", "json", "jsonl"],
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="text, json: one object, or jsonl: an object a text.",
        rich_help_panel=OUTPUT,
    ),
]
Html: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write a page to open in a browser.", rich_help_panel=OUTPUT),
]
