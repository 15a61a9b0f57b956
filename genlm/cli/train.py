"""`genlm train`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from genlm.cli import options
from genlm.cli.command import grouped
from genlm.cli.signals import graceful_interrupt, insistent_interrupts
from genlm.errors import UsageError
from genlm.formats.documents import FIELD
from genlm.model.info import DeviceChoice
from genlm.model.source import Notify
from genlm.version import __version__
from genlm.views.progress import Spinner
from genlm.views.terminal import notices
from genlm.views.train import TrainView, draw_curve, model_card, read_card

if TYPE_CHECKING:
    from genlm.tasks.train.start import TrainingRun, TrainRequest

text_option = options.panel("Texts")
model_option = options.panel("Model")
loop_option = options.panel("Training")
loop_count, loop_number = partial(loop_option, metavar="N"), partial(loop_option, metavar="X")
model_count = partial(model_option, metavar="N")
BY_SIZE = "depends on the corpus size"


@dataclass(frozen=True)
class ShapeOptions:
    """The shape of a new model. None means the value from --size."""

    n_layer: Annotated[int | None, model_count(help="Number of blocks.")] = None
    n_embd: Annotated[int | None, model_count(help="Width.")] = None
    n_head: Annotated[int | None, model_count(help="Number of heads; must divide the width.")] = None
    n_positions: Annotated[int | None, model_count(help="Context length in tokens.")] = None
    vocab_size: Annotated[int | None, model_count(help="Maximum size of the vocabulary.")] = None


@dataclass(frozen=True)
class RecipeOptions:
    """The recipe of the training. None means the default for the size of the corpus."""

    max_steps: Annotated[int | None, loop_count(help="Number of steps.", show_default=BY_SIZE)] = None
    max_minutes: Annotated[
        float | None, loop_number(help="Time limit; replaces --max-steps if given alone. Not reproducible.")
    ] = None
    batch_size: Annotated[int | None, loop_count(help="Sequences per batch.", show_default=BY_SIZE)] = None
    accumulate: Annotated[int | None, loop_count(help="Batches per step.", show_default="1")] = None
    learning_rate: Annotated[
        float | None, loop_number(help="Peak learning rate; a cosine decays from there.", show_default=BY_SIZE)
    ] = None
    warmup_steps: Annotated[int | None, loop_count(help="Steps until the peak.", show_default=BY_SIZE)] = None
    optimizer: Annotated[
        Literal["adamw", "muon"] | None,
        loop_option(
            metavar="NAME",
            help="adamw, or muon: Muon for the matrices of the blocks, AdamW for the rest.",
            show_default="adamw",
        ),
    ] = None
    weight_decay: Annotated[float | None, loop_number(help="Weight decay, matrices only.", show_default="0.1")] = None
    max_grad_norm: Annotated[float | None, loop_number(help="Clip gradients to this norm.", show_default="1.0")] = None
    dropout: Annotated[float | None, loop_option(metavar="P", help="Dropout probability.", show_default=BY_SIZE)] = None
    eval_every: Annotated[
        int | None,
        loop_count(
            help="Steps between evaluations; the best weights are kept.", show_default="a twelfth of --max-steps"
        ),
    ] = None
    patience: Annotated[
        int | None,
        loop_count(help="Stop after N evaluations without improvement; 0 never stops.", show_default="10"),
    ] = None
    save_every: Annotated[int | None, loop_count(help="Steps between checkpoints.", show_default="250")] = None
    seed: Annotated[int | None, loop_count(help="Seed of all random choices.", show_default="0")] = None
    compile: Annotated[
        bool | None, loop_option("--compile", help="Use torch.compile: a slow start, then faster steps.")
    ] = None


@grouped
def train(
    *,
    corpus: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CORPUS",
            help="Text files, .jsonl files, or folders of them at any depth; .gz and .zst files are decompressed.",
        ),
    ] = None,
    valid: Annotated[
        list[Path] | None,
        text_option(metavar="FILE", help="Hold out this file or folder for evaluation; may be repeated."),
    ] = None,
    valid_share: Annotated[
        float | None,
        text_option(
            metavar="X", help="Hold out this share of the corpus. Default: 0.05 of 100 kB or more, otherwise 0."
        ),
    ] = None,
    per: Annotated[
        Literal["line", "file"] | None,
        text_option(
            metavar="UNIT",
            help="line: each line is a text; file: each file is one. Default: line below 10 kB, otherwise file.",
        ),
    ] = None,
    text_field: Annotated[str, text_option(metavar="NAME", help="Field of a .jsonl record with the text.")] = FIELD,
    base: Annotated[
        str | None,
        model_option(
            metavar="MODEL",
            help="Continue training this model (fable, a folder, a Hub id), with its size and tokenizer.",
        ),
    ] = None,
    revision: Annotated[
        str | None, model_option(metavar="REF", help="Branch, tag or commit of --base on the Hub.")
    ] = None,
    size: Annotated[
        str | None,
        model_option(
            metavar="NAME",
            help="tiny, small, medium, large or gpt2; the next options change parts of it.",
            show_default=BY_SIZE,
        ),
    ] = None,
    shape: ShapeOptions,
    tokenizer: Annotated[
        str | None,
        model_option(
            metavar="NAME",
            help="bpe, word or char: trained on the corpus; or an existing one: a model or a tokenizer.json.",
            show_default="bpe",
        ),
    ] = None,
    recipe: RecipeOptions,
    device: Annotated[
        DeviceChoice,
        loop_option(metavar="DEVICE", help="cpu, cuda, mps, or auto: the best available."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        loop_option(
            metavar="DTYPE",
            help="Dtype of matrix products: float32, bfloat16 (weights stay float32), or auto: bfloat16 for a width "
            "of 256 or more if the hardware supports it.",
        ),
    ] = "auto",
    output: Annotated[Path, options.output_option("--output", "-o", metavar="DIR", help="Folder for the model.")],
    resume: Annotated[
        bool, options.output_option("--resume", help="Continue the run in DIR; needs no CORPUS.")
    ] = False,
    overwrite: Annotated[
        bool, options.output_option("--overwrite", help="Start over if DIR already holds a model.")
    ] = False,
    save_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        options.output_option(
            metavar="DTYPE", help="Dtype of the saved weights.", show_default="float32, or that of --base"
        ),
    ] = None,
    card: Annotated[
        Path | None,
        options.output_option(
            metavar="FILE", help="Your own model card in Markdown; {figures} is replaced by the table of results."
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a GPT-2 on your own texts, or continue training a model.

    genlm train book.txt -o model
    genlm train corpus/ --valid valid.txt -o model --max-minutes 30
    genlm train poems.txt --base gpt2 -o poet
    genlm train --resume -o model
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite cannot be combined")
    template = read_card(card)
    notify = notices(quiet=quiet)
    with Spinner(enabled=not quiet) as spinner, insistent_interrupts():
        spinner.say("reading the corpus")
        from genlm.tasks.train.data import TextSource
        from genlm.tasks.train.start import TrainRequest

        source = TextSource(_absolute(corpus), _absolute(valid), valid_share, per, text_field)
        request = TrainRequest(
            source, base, tokenizer, size, _given(shape), _given(recipe), dtype, save_dtype, device, revision
        )
        run = _prepare(request, output, resume=resume, overwrite=overwrite, notify=notify)
    with run.hold:
        if not run.trainer.is_finished:
            _train(run, output, quiet=quiet, notify=notify)
        _report(run, output, template)
    notify(f"the model is in {output}; to use it: genlm generate -m {output}")


def _prepare(request: TrainRequest, output: Path, *, resume: bool, overwrite: bool, notify: Notify) -> TrainingRun:
    from genlm.tasks.train import start
    from genlm.tasks.train.data import TextSource

    if not resume:
        if not request.source.corpus:
            hint = "name files or folders of text, as in: genlm train book.txt -o model"
            raise UsageError("missing CORPUS", hint=hint)
        return start.begin(request, output, overwrite=overwrite, notify=notify)
    if request == start.TrainRequest(TextSource(())):
        return start.resume(output, notify=notify)
    if not request.source.corpus:
        raise UsageError(
            "--resume continues with the original settings and takes no other options",
            hint="or repeat the whole command and add --resume",
        )
    return start.resume(output, request, notify)


def _train(run: TrainingRun, output: Path, *, quiet: bool, notify: Notify) -> None:
    from genlm.tasks.train.model import tuned_cpu

    facts = run.facts
    with (
        tuned_cpu(facts.device, facts.width),
        TrainView(facts, enabled=not quiet) as view,
        graceful_interrupt() as interrupted,
    ):
        for record in run.trainer.run(interrupted):
            view.show(record)
    if not run.trainer.is_finished:
        notify(f"interrupted at step {run.trainer.state.step}; to continue: genlm train --resume -o {output}")
        raise interrupted.ending


def _report(run: TrainingRun, output: Path, template: str | None) -> None:
    """Write the curve and the card."""
    from genlm.tasks.train.folder import CARD, CURVE, LOG, replacing_files

    with replacing_files(output, CURVE) as new:
        draw_curve(output / LOG, new / CURVE)
    with replacing_files(output, CARD) as new:
        (new / CARD).write_text(model_card(output, run.facts, template, __version__), "utf-8", newline="\n")


def _given(options: ShapeOptions | RecipeOptions) -> dict[str, Any]:
    """Return the options that were given, by name."""
    return {name: value for name, value in vars(options).items() if value is not None}


def _absolute(paths: list[Path] | None) -> tuple[str, ...]:
    return tuple(str(path.absolute()) for path in paths or ())
