"""`genlm tokenize`."""

from __future__ import annotations

from typing import Annotated, Literal

from genlm.cli import options
from genlm.cli.signals import insistent_interrupts
from genlm.errors import UsageError
from genlm.formats.output import open_output
from genlm.formats.texts import read_texts
from genlm.model.source import find_model
from genlm.tasks.tokenize import detokenize, open_tokenizer
from genlm.tasks.tokenize import tokenize as tokenize_texts
from genlm.views.terminal import notices
from genlm.views.tokenize import write_decoded, write_ids, write_json, write_json_lines, write_text


def tokenize(
    text: options.Text = None,
    file: options.TextFiles = None,
    per: options.Per = None,
    decode: Annotated[
        bool,
        options.input_option("--decode", help="Turn token ids, such as 5 17 300 or [5, 17, 300], back into text."),
    ] = False,
    model: options.ModelName = None,
    revision: options.Revision = None,
    format: Annotated[
        Literal["text", "ids", "json", "jsonl"],
        options.output_option(
            metavar="FORMAT",
            help="text, ids: one line of ids per text, json: one object, or jsonl: one object per text.",
        ),
    ] = "text",
    output: options.Output = None,
    quiet: options.Quiet = False,
) -> None:
    """Show the tokens of a text with their ids, offsets and bytes, or turn ids into text.

    genlm tokenize "Once upon a time"
    genlm tokenize --file poems.txt --format ids
    genlm tokenize "Once upon a time" --format ids | genlm tokenize --decode
    """
    notify = notices(quiet=quiet)
    texts = read_texts(text, file or [], per)
    if decode and format == "ids":
        raise UsageError("--decode and --format ids cannot be combined")
    with open_output(output) as stream:
        with insistent_interrupts():
            folder = find_model(model, revision=revision, notify=notify)
            tokenizer = open_tokenizer(folder)
        found = (detokenize if decode else tokenize_texts)(tokenizer, texts)
        if format == "json":
            write_json(stream, found, folder.name)
        elif format == "jsonl":
            write_json_lines(stream, found)
        elif format == "ids":
            write_ids(stream, found)
        else:
            (write_decoded if decode else write_text)(stream, found)
