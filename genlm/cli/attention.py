"""`genlm attention`."""

from __future__ import annotations

from typing import Annotated

from genlm.cli import options
from genlm.cli.command import grouped
from genlm.formats.output import open_output
from genlm.formats.texts import read_prompt_or_file
from genlm.records.serialize import as_line
from genlm.tasks.attention import look_at_attention
from genlm.views.attention import attention_page, attention_record, show_attention
from genlm.views.progress import Spinner
from genlm.views.terminal import notices

look_option = options.panel("What to show")


@grouped
def attention(
    *,
    prompt: options.PromptToRead = None,
    file: options.PromptFile = None,
    layer: Annotated[
        int | None,
        look_option(metavar="L", help="Only this layer, from 0. Default: all, of which text output shows the first."),
    ] = None,
    head: Annotated[
        int | None,
        look_option(
            metavar="H", help="Only this head of a layer, from 0. Default: all, of which text output shows the first."
        ),
    ] = None,
    check: Annotated[
        bool,
        look_option(
            "--check",
            help="Recompute the weights from Q and K in double precision and report the largest difference.",
        ),
    ] = False,
    overflow: options.OnOverflow = "error",
    model: options.ModelOptions,
    format: options.Format = "text",
    output: options.Output = None,
    html: options.Html = None,
    quiet: options.Quiet = False,
) -> None:
    """Show the attention weights of each layer and head: softmax(QK^T / sqrt(d_k)).

    genlm attention "The king had three sons" --layer 2 --head 1
    genlm attention "The king had three sons" --html attention.html
    """
    notify = notices(quiet=quiet)
    text = read_prompt_or_file(prompt, file)
    if format == "text" and html is None:
        layer, head = layer or 0, head or 0
    with (
        open_output(output) as stream,
        options.open_page(html, output) as page,
        Spinner(enabled=not quiet) as spinner,
    ):
        loaded = model.load(notify, spinner, identify=format == "json" or page is not None)
        maps = look_at_attention(loaded, text, layer=layer, head=head, check=check, overflow=overflow)
        if page is not None:
            page.write(attention_page(maps))
        spinner.stop()
        if format == "json":
            stream.write(as_line(attention_record(maps)) + "\n")
        else:
            show_attention(stream, maps)
