"""`genlm attention`."""

from __future__ import annotations

from typing import Annotated

from genlm.cli import options
from genlm.cli.grouped import grouped
from genlm.cli.loading import ModelOptions
from genlm.cli.pages import open_page
from genlm.formats.output import open_output
from genlm.formats.texts import read_prompt_or_file
from genlm.tasks.attention import look_at_attention
from genlm.views.as_json import as_line
from genlm.views.attention import attention_record, show_attention
from genlm.views.pages.attention import attention_page
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices

look_option = options.panel("What to show")


@grouped
def attention(
    *,
    prompt: options.PromptToRead = None,
    file: options.PromptFile = None,
    layer: Annotated[
        int | None,
        look_option(
            metavar="L", help="This layer, from 0. Without it: all of them, of which a terminal shows the first."
        ),
    ] = None,
    head: Annotated[
        int | None,
        look_option(
            metavar="H",
            help="This head of a layer, from 0. Without it: all of them, of which a terminal shows the first.",
        ),
    ] = None,
    check: Annotated[
        bool,
        look_option(
            "--check", help="Make the weights anew from Q and K, in double precision, and tell the largest difference."
        ),
    ] = False,
    overflow: options.OnOverflow = "error",
    model: ModelOptions,
    format: options.Format = "text",
    output: options.Output = None,
    html: options.Html = None,
    quiet: options.Quiet = False,
) -> None:
    """Show what each token of a prompt attends to: softmax(QK^T / sqrt(d_k)), layer by layer, head by head.

    genlm attention "The king had three sons" --layer 2 --head 1
    genlm attention "The king had three sons" --html attention.html
    """
    notify = notices(quiet=quiet)
    text = read_prompt_or_file(prompt, file)
    if format == "text" and html is None:
        layer, head = layer or 0, head or 0
    with (
        open_output(output) as stream,
        open_page(html, output) as page,
        Spinner(enabled=not quiet) as spinner,
    ):
        loaded = model.load(notify, spinner)
        maps = look_at_attention(loaded, text, layer=layer, head=head, check=check, overflow=overflow)
        if page is not None:
            page.write(attention_page(maps))
        spinner.stop()
        if format == "json":
            stream.write(as_line(attention_record(maps)) + "\n")
        else:
            show_attention(stream, maps)
