"""The options that commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, TypeAlias

import typer

from genlm.cli.signals import insistent_interrupts
from genlm.errors import UsageError
from genlm.formats.output import is_standard_output, open_output
from genlm.model.fingerprint import fingerprinted
from genlm.model.info import DeviceChoice, DtypeChoice, Engine
from genlm.model.source import ModelFolder, Notify, find_model
from genlm.views.progress import Spinner

if TYPE_CHECKING:
    from genlm.model.load import Model


def panel(title: str) -> Callable[..., Any]:
    """Return a version of `typer.Option` that lists its options under this title in the help."""
    return partial(typer.Option, rich_help_panel=title)


def _silence_downloads(quiet: bool) -> bool:
    """Turn off the Hub client's progress bars; the client reads this variable when it is imported."""
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return quiet


input_option = panel("Input")
model_option = panel("Model")
strategy_option = panel("Strategy")
length_option = panel("Length and count")
output_option = panel("Output")

# Input.

Prompt: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="Text to continue; without it or with -, standard input is read."),
]
PromptToRead: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="Text to examine; without it or with -, standard input is read.")
]
PromptFile: TypeAlias = Annotated[
    Path | None, input_option("--file", metavar="FILE", help="Read the prompt from this file.")
]
Text: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="TEXT", help="The text; without it or with -, standard input is read.")
]
TextFiles: TypeAlias = Annotated[
    list[Path] | None,
    input_option("--file", metavar="FILE", help="Read texts from this file; may be repeated; - is standard input."),
]
Per: TypeAlias = Annotated[
    Literal["line", "file"] | None,
    input_option(
        metavar="UNIT",
        help="line: each line is a text; file: each file is one. Default: line with --file, otherwise file.",
    ),
]
Replay: TypeAlias = Annotated[
    Path | None,
    input_option(
        metavar="FILE",
        help="Run a saved --format json result again and report whether its output is the same. Exit code 1 if not.",
    ),
]

# Model.

ModelName: TypeAlias = Annotated[
    str | None,
    model_option(
        "--model",
        "-m",
        metavar="MODEL",
        envvar="GENLM_MODEL",
        help="fable (bundled), a local folder, or a Hub id such as gpt2. Default: gpt2, or fable if gpt2 is neither "
        "cached nor reachable.",
    ),
]
Revision: TypeAlias = Annotated[str | None, model_option(metavar="REF", help="Branch, tag or commit of a Hub model.")]
Device: TypeAlias = Annotated[
    DeviceChoice,
    model_option(metavar="DEVICE", help="cpu, cuda, mps, or auto: the best available."),
]
Dtype: TypeAlias = Annotated[
    DtypeChoice,
    model_option(
        metavar="DTYPE",
        help="float32, bfloat16, float16, int8 (GPT-2 on the CPU; fastest there), or auto: float32 on the CPU, the "
        "checkpoint's own elsewhere.",
    ),
]
EngineName: TypeAlias = Annotated[
    Literal["genlm", "transformers"],
    model_option(
        "--engine",
        metavar="ENGINE",
        help="genlm, or transformers: its own generate with every setting pinned, for the kinds it supports.",
    ),
]
AllowPickle: TypeAlias = Annotated[
    bool, model_option("--allow-pickle", help="Also load pickled weights. Use it only if you trust their source.")
]


@dataclass(frozen=True)
class ModelOptions:
    """The model and how to load it."""

    name: ModelName = None
    revision: Revision = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    allow_pickle: AllowPickle = False

    def find(self, notify: Notify) -> ModelFolder:
        """Return the model's folder, downloading it if necessary. Raise ModelError if that fails."""
        return find_model(self.name, revision=self.revision, allow_pickle=self.allow_pickle, notify=notify)

    def load(self, notify: Notify, spinner: Spinner, engine: Engine = "genlm", *, identify: bool = False) -> Model:
        """Find and load the model; `identify` computes the fingerprint of its weights. Raise ModelError on failure."""
        with insistent_interrupts():
            folder = self.find(notify)
            if identify:
                spinner.say(f"reading {folder.name}")
                folder = fingerprinted(folder, allow_pickle=self.allow_pickle)
            return self.load_found(folder, spinner, engine)

    def load_found(self, folder: ModelFolder, spinner: Spinner, engine: Engine = "genlm") -> Model:
        """Load the model from its folder. Raise ModelError if that fails."""
        with insistent_interrupts():
            # Not earlier, because a download shows its own progress bars.
            spinner.say(f"loading {folder.name}")
            from genlm.model.load import load_model

            return load_model(
                folder, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle, engine=engine
            )


# Strategy.

StrategySpec: TypeAlias = Annotated[
    str | None,
    strategy_option(
        "--strategy",
        "-s",
        metavar="SPEC",
        help="KIND[:FIELD=VALUE,...], such as beam:num_beams=4, or @NAME for a preset; genlm strategies lists the "
        "kinds. Without it, the flags below select the kind; the default is top-p:top_p=0.9.",
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
    int | None,
    strategy_option(metavar="N", help="Seed of all random choices. Without it, one is drawn and reported."),
]
Deterministic: TypeAlias = Annotated[
    bool,
    strategy_option(
        "--deterministic",
        help="Decode each completion separately, so that not even rounding depends on the others. Slower.",
    ),
]

# Length and count.

MaxNewTokens: TypeAlias = Annotated[
    int, length_option(metavar="N", help="Maximum number of tokens to generate, 1 or more.")
]
NumReturnSequences: TypeAlias = Annotated[
    int, length_option("--num-return-sequences", "-n", metavar="N", help="Number of completions per prompt.")
]
Stop: TypeAlias = Annotated[
    list[str] | None, length_option(metavar="TEXT", help="Stop just before this text; may be repeated.")
]
OnOverflow: TypeAlias = Annotated[
    Literal["error", "truncate-left"],
    length_option(
        "--overflow",
        metavar="HOW",
        help="If a prompt is too long for the context: error, or truncate-left to keep its end.",
    ),
]

# Output.

Echo: TypeAlias = Annotated[bool, output_option("--echo/--no-echo", help="Show the prompt before the completion.")]
Format: TypeAlias = Annotated[
    Literal["text", "json"], output_option("--format", metavar="FORMAT", help="text, or json: one object.")
]
TextsFormat: TypeAlias = Annotated[
    Literal["text", "json", "jsonl"],
    output_option("--format", metavar="FORMAT", help="text, json: one object, or jsonl: one object per text."),
]
Output: TypeAlias = Annotated[
    Path | None, output_option("--output", "-o", metavar="FILE", help="Write to this file instead of stdout.")
]
Html: TypeAlias = Annotated[Path | None, output_option(metavar="FILE", help="Also write a page to open in a browser.")]
CsvSafe: TypeAlias = Annotated[
    bool,
    output_option(
        "--csv-safe",
        help="In CSV, put a ' before texts that begin with = + - @, tab or carriage return: a spreadsheet may run them "
        "as formulas.",
    ),
]
PrintPython: TypeAlias = Annotated[
    bool,
    output_option(
        "--print-python", help="Print a Python script that does the same with transformers alone; generate nothing."
    ),
]
Trace: TypeAlias = Annotated[
    bool,
    output_option("--trace", help="Show how likely each token was: as colours on a terminal, as numbers in JSON."),
]
TraceHtml: TypeAlias = Annotated[
    Path | None,
    output_option(
        "--html", metavar="FILE", help="Also write a page that shows the alternatives to each token; implies --trace."
    ),
]
Quiet: TypeAlias = Annotated[
    bool,
    output_option("--quiet", "-q", callback=_silence_downloads, help="No notices, progress or summary on stderr."),
]


@contextmanager
def open_page(path: Path | None, output: Path | None) -> Iterator[TextIO | None]:
    """Open the file of --html, or yield None if there is none.

    Raises:
        UsageError: the file is standard output, or the same as that of --output.
        OutputError: the file cannot be written.
    """
    if path is None:
        yield None
        return
    if is_standard_output(path):
        raise UsageError("--html needs a file: standard output carries the result")
    if output is not None and os.path.realpath(path) == os.path.realpath(output):
        raise UsageError(f"--output and --html are the same file, {path}")
    with open_output(path) as stream:
        yield stream
