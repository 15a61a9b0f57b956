"""`genlm train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from genlm import __version__
from genlm.cli import options
from genlm.cli.signals import graceful_interrupt, insistent_interrupts
from genlm.errors import UsageError
from genlm.formats.documents import FIELD
from genlm.formats.output import replacing
from genlm.model.source import Notify
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices
from genlm.views.train import TrainView
from genlm.views.train_card import model_card, read_card
from genlm.views.train_curve import draw_curve

if TYPE_CHECKING:
    from genlm.tasks.train.jobs import Request
    from genlm.tasks.train.start import Run

text_option = options.panel("Texts")
size_option = options.panel("Model")
loop_option = options.panel("Training")
BY_SIZE = "by the size of the corpus"
LOG, CURVE, CARD = "log.jsonl", "loss.png", "README.md"


def train(
    corpus: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CORPUS",
            help="Text files, .jsonl files, folders of both at any depth; .gz and .zst are read as they are.",
        ),
    ] = None,
    valid: Annotated[
        list[Path] | None, text_option(metavar="FILE", help="Hold this text out, a file or folder; may be repeated.")
    ] = None,
    valid_share: Annotated[
        float | None,
        text_option(metavar="X", help="Without --valid: hold out this share; 0.05 of 100 kB or more, else 0."),
    ] = None,
    per: Annotated[
        Literal["line", "file"] | None,
        text_option(
            metavar="UNIT",
            help="What one text is: a line, or a file. Without it a line of a corpus below 10 kB, else a file.",
        ),
    ] = None,
    text_field: Annotated[str, text_option(metavar="NAME", help="The field of a .jsonl record to take.")] = FIELD,
    base: Annotated[
        str | None,
        size_option(
            "--from",
            metavar="MODEL",
            help="Go on with a trained model (fable, a folder, a Hub id): its size, its tokenizer.",
        ),
    ] = None,
    revision: Annotated[
        str | None, size_option(metavar="REF", help="Branch, tag or commit of --from, on the Hub.")
    ] = None,
    preset: Annotated[
        str | None,
        size_option(
            metavar="NAME", help="tiny, small, medium, large or gpt2; the numbers below alter it.", show_default=BY_SIZE
        ),
    ] = None,
    n_layer: Annotated[int | None, size_option(metavar="N", help="Blocks.")] = None,
    n_embd: Annotated[int | None, size_option(metavar="N", help="Width.")] = None,
    n_head: Annotated[int | None, size_option(metavar="N", help="Heads; they divide the width.")] = None,
    n_positions: Annotated[int | None, size_option(metavar="N", help="Context, in tokens.")] = None,
    vocab_size: Annotated[int | None, size_option(metavar="N", help="Entries of the tokenizer, at most.")] = None,
    tokenizer: Annotated[
        str | None,
        size_option(
            metavar="NAME",
            help="bpe, word or char, made from the corpus; or one that is there: a model, a tokenizer.json.",
            show_default="bpe",
        ),
    ] = None,
    max_steps: Annotated[int | None, loop_option(metavar="N", help="Steps.", show_default=BY_SIZE)] = None,
    max_minutes: Annotated[
        float | None, loop_option(metavar="X", help="Minutes; alone the only limit. Two such runs are not the same.")
    ] = None,
    batch_size: Annotated[int | None, loop_option(metavar="N", help="Rows in a batch.", show_default=BY_SIZE)] = None,
    accumulate: Annotated[int | None, loop_option(metavar="N", help="Batches in a step.", show_default="1")] = None,
    learning_rate: Annotated[
        float | None,
        loop_option(metavar="X", help="At its peak; a cosine leads down from there.", show_default=BY_SIZE),
    ] = None,
    warmup_steps: Annotated[
        int | None, loop_option(metavar="N", help="Steps up to the peak.", show_default=BY_SIZE)
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "muon"] | None,
        loop_option(
            metavar="NAME",
            help="adamw, or muon: Muon for the blocks' matrices, AdamW for the rest.",
            show_default="adamw",
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, loop_option(metavar="X", help="Of matrices only.", show_default="0.1")
    ] = None,
    max_grad_norm: Annotated[
        float | None, loop_option(metavar="X", help="A longer gradient is cut to this.", show_default="1.0")
    ] = None,
    dropout: Annotated[float | None, loop_option(metavar="P", help="Dropout.", show_default=BY_SIZE)] = None,
    eval_every: Annotated[
        int | None,
        loop_option(
            metavar="N",
            help="Steps between evaluations; the best weights are kept.",
            show_default="a twelfth of --max-steps",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        loop_option(metavar="N", help="End after N evaluations without a new best; 0 is never.", show_default="10"),
    ] = None,
    save_every: Annotated[
        int | None, loop_option(metavar="N", help="Steps between checkpoints.", show_default="250")
    ] = None,
    seed: Annotated[int | None, loop_option(metavar="N", help="Makes it repeatable.", show_default="0")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        loop_option(metavar="DEVICE", help="cpu, cuda, mps, or auto: the best there is."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        loop_option(
            metavar="DTYPE",
            help="What products are computed in: float32, bfloat16 (weights stay float32), or auto: bfloat16 for a "
            "model 256 wide or more where the machine is made for it.",
        ),
    ] = "auto",
    compile: Annotated[bool, loop_option("--compile", help="torch.compile: slow to begin, then faster.")] = False,
    out: Annotated[
        Path | None, options.output_option("--output", "-o", metavar="DIR", help="The folder for the model.")
    ] = None,
    resume: Annotated[
        bool, options.output_option("--resume", help="Go on with the run in DIR; needs no CORPUS.")
    ] = False,
    overwrite: Annotated[
        bool, options.output_option("--overwrite", help="Begin anew where DIR holds a model.")
    ] = False,
    save_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        options.output_option(metavar="DTYPE", help="Of the weights in DIR.", show_default="float32, or as --from"),
    ] = None,
    card: Annotated[
        Path | None,
        options.output_option(metavar="FILE", help="Your own model card, Markdown; {figures} in it becomes the table."),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a GPT-2 on texts of your own, or go on with a trained model.

    genlm train book.txt -o model
    genlm train corpus/ --valid valid.txt -o model --max-minutes 30
    genlm train poems.txt --from gpt2 -o poet
    genlm train --resume -o model
    """
    if out is None:
        raise UsageError("no place for the model", hint="-o DIR names a folder")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite at once: which is it?")
    template = read_card(card)
    shape = _given(n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=n_positions, vocab_size=vocab_size)
    recipe = _given(
        max_steps=max_steps,
        max_minutes=max_minutes,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        optimizer=optimizer,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        dropout=dropout,
        eval_every=eval_every,
        patience=patience,
        save_every=save_every,
        seed=seed,
        compile=compile or None,
    )
    notify = notices(quiet=quiet)
    with Spinner(enabled=not quiet) as spinner, insistent_interrupts():
        spinner.say("reading the corpus")
        from genlm.tasks.train.jobs import Request
        from genlm.tasks.train.texts import Source

        source = Source(_absolute(corpus), _absolute(valid), valid_share, per, text_field)
        request = Request(source, base, tokenizer, preset, shape, recipe, dtype, save_dtype, device, revision)
        run = _resumed(out, request, notify) if resume else _begun(out, request, overwrite, notify)
    with run.hold:
        if not run.training.is_finished:
            _train(run, out, quiet=quiet, notify=notify)
        with replacing(out / CURVE) as picture:
            draw_curve(out / LOG, picture)
        with replacing(out / CARD) as stream:
            stream.write(model_card(out, run.facts, template, __version__).encode())
    notify(f"the model is in {out}; genlm generate -m {out}")


def _given(**values: Any) -> dict[str, Any]:
    """What has a value."""
    return {name: value for name, value in values.items() if value is not None}


def _absolute(paths: list[Path] | None) -> tuple[str, ...]:
    return tuple(str(path.absolute()) for path in paths or ())


def _begun(out: Path, request: Request, overwrite: bool, notify: Notify) -> Run:
    from genlm.tasks.train.start import begin

    if not request.source.corpus:
        raise UsageError("no corpus", hint="name files or folders of text, as in: genlm train book.txt -o model")
    return begin(request, out, overwrite=overwrite, notify=notify)


def _resumed(out: Path, request: Request, notify: Notify) -> Run:
    from genlm.tasks.train.jobs import Request
    from genlm.tasks.train.start import resume
    from genlm.tasks.train.texts import Source

    if request == Request(Source(())):
        return resume(out, notify=notify)
    if not request.source.corpus:
        raise UsageError(
            "--resume goes on as the run was begun, and takes no other options",
            hint="or give the whole command again, with --resume",
        )
    return resume(out, request, notify)


def _train(run: Run, out: Path, *, quiet: bool, notify: Notify) -> None:
    from genlm.tasks.train.machine import suited_to

    facts = run.facts
    with (
        suited_to(facts.device, facts.width),
        TrainView(facts, enabled=not quiet) as view,
        graceful_interrupt() as asked,
    ):
        for record in run.training.run(asked):
            view.show(record)
    if not run.training.is_finished:
        notify(f"interrupted at step {run.training.place.step}; genlm train --resume -o {out} goes on from there")
        raise asked.ending
