"""`genlm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genlm.cli import options
from genlm.cli.signals import graceful_interrupt, insistent_interrupts
from genlm.errors import UsageError
from genlm.tasks.train.settings import Recipe, Shape
from genlm.views.terminal import notice
from genlm.views.train import TrainView

DATA, SIZE, LOOP = "Texts", "Size of the model", "Training"


def train(
    corpus: Annotated[
        list[Path] | None, typer.Argument(metavar="CORPUS...", help="Text files, or folders of them.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Leave the model here.", rich_help_panel=DATA)
    ] = None,
    valid: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Held-out text; may be repeated, and be a folder.", rich_help_panel=DATA),
    ] = None,
    n_layer: Annotated[int, typer.Option(metavar="N", help="Blocks.", rich_help_panel=SIZE)] = 6,
    n_embd: Annotated[int, typer.Option(metavar="N", help="Width.", rich_help_panel=SIZE)] = 320,
    n_head: Annotated[int, typer.Option(metavar="N", help="Heads of attention.", rich_help_panel=SIZE)] = 5,
    n_positions: Annotated[int, typer.Option(metavar="N", help="Context in tokens.", rich_help_panel=SIZE)] = 512,
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Tokens.", rich_help_panel=SIZE)] = 4096,
    max_steps: Annotated[int | None, typer.Option(metavar="N", help="Steps.", rich_help_panel=LOOP)] = None,
    max_minutes: Annotated[
        float | None, typer.Option(metavar="MIN", help="Minutes to train for at most.", rich_help_panel=LOOP)
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows at once.", rich_help_panel=LOOP)] = 8,
    accumulate: Annotated[int, typer.Option(metavar="N", help="Batches a step.", rich_help_panel=LOOP)] = 1,
    optimizer: Annotated[
        Literal["adamw", "muon"],
        typer.Option(metavar="NAME", help="adamw, or muon for the blocks' matrices.", rich_help_panel=LOOP),
    ] = "adamw",
    learning_rate: Annotated[
        float, typer.Option(metavar="X", help="Peak learning rate.", rich_help_panel=LOOP)
    ] = 1.5e-3,
    warmup_steps: Annotated[int, typer.Option(metavar="N", help="Steps of warm-up.", rich_help_panel=LOOP)] = 100,
    weight_decay: Annotated[
        float, typer.Option(metavar="X", help="Decay, of matrices only.", rich_help_panel=LOOP)
    ] = 0.1,
    dropout: Annotated[float, typer.Option(metavar="P", help="Dropout.", rich_help_panel=LOOP)] = 0.0,
    eval_every: Annotated[
        int, typer.Option(metavar="N", help="Steps between evaluations.", rich_help_panel=LOOP)
    ] = 250,
    patience: Annotated[
        int,
        typer.Option(metavar="N", help="End after N evaluations without a new best; 0 is never.", rich_help_panel=LOOP),
    ] = 10,
    save_every: Annotated[
        int, typer.Option(metavar="N", help="Steps between checkpoints.", rich_help_panel=LOOP)
    ] = 250,
    seed: Annotated[int, typer.Option(metavar="N", help="Makes the run repeatable.", rich_help_panel=LOOP)] = 0,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(metavar="DTYPE", help="What products are computed in.", rich_help_panel=LOOP),
    ] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.", rich_help_panel=LOOP)] = False,
    save_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(metavar="DTYPE", help="Type of the weights in DIR.", rich_help_panel=options.OUTPUT),
    ] = "float32",
    device: options.Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on.", rich_help_panel=options.OUTPUT)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.", rich_help_panel=options.OUTPUT)] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a GPT-2 on texts of your own.

    genlm train book.txt -o model
    """
    if output is None:
        raise UsageError("-o DIR says where the model goes")
    with insistent_interrupts():
        from genlm.model.load import choose_device
        from genlm.tasks.train import start
        from genlm.tasks.train.machine import choose_precision

        if resume:
            training = start.resume(output)
        else:
            if not corpus:
                raise UsageError("no corpus: which texts?")
            place = choose_device(device)
            recipe = Recipe(
                max_steps=max_steps if max_steps or max_minutes else 3000,
                max_minutes=max_minutes,
                batch_size=batch_size,
                accumulate=accumulate,
                optimizer=optimizer,
                learning_rate=learning_rate,
                warmup_steps=warmup_steps,
                weight_decay=weight_decay,
                dropout=dropout,
                eval_every=eval_every,
                patience=patience,
                save_every=save_every,
                seed=seed,
                dtype=choose_precision(dtype, place, n_embd),
                compile=compile,
            )
            job = start.Job(
                corpus=[str(path.absolute()) for path in corpus],
                valid=[str(path.absolute()) for path in valid or []],
                shape=Shape(n_layer, n_embd, n_head, n_positions, vocab_size),
                recipe=recipe,
                save_dtype=save_dtype,
                device=place,
            )
            training = start.begin(job, output, overwrite=overwrite)
    view = TrainView(enabled=not quiet)
    with graceful_interrupt() as asked:
        for record in training.run(asked):
            view.show(record)
    if not training.is_finished:
        notice(f"interrupted; genlm train --resume -o {output} goes on from step {training.place.step}")
        raise KeyboardInterrupt
