"""`genlm score`."""

from __future__ import annotations

from typing import Annotated, TextIO

from genlm.cli import options
from genlm.cli.command import grouped
from genlm.formats.output import is_standard_output, open_output
from genlm.formats.texts import read_texts
from genlm.model.info import ModelInfo
from genlm.records.made_by import MadeBy
from genlm.tasks.score import Scorer
from genlm.views.score import ScoreJson, ScoreJsonLines, ScorePage, ScoreText, ScoreView, score_summary
from genlm.views.spinner import Spinner
from genlm.views.terminal import notices

score_option = options.panel("How to score")


@grouped
def score(
    *,
    text: options.Text = None,
    file: options.TextFiles = None,
    per: options.Per = None,
    bos: Annotated[
        bool | None,
        score_option(
            "--bos/--no-bos",
            help="Put a start token before each text, so that its first token is scored too. Default: if the model "
            "has one.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        score_option(
            metavar="N",
            help="Score texts longer than the context in windows that start every N tokens; a smaller N gives each "
            "token more context but is slower. Default: half the context.",
        ),
    ] = None,
    tokens: Annotated[
        bool | None,
        options.output_option(
            "--tokens/--no-tokens", help="Show the numbers of every token. Default: in JSON, but not in text."
        ),
    ] = None,
    model: options.ModelOptions,
    format: options.TextsFormat = "text",
    output: options.Output = None,
    html: options.Html = None,
    quiet: options.Quiet = False,
) -> None:
    """Score texts: log-probability, perplexity, bits per byte, and the rank of every token.

    genlm score "Once upon a time there was a king."
    genlm score --file poems.txt --file prose.txt
    genlm score --file book.txt --per file --stride 128
    cat lines.txt | genlm score --per line --format jsonl
    """
    notify = notices(quiet=quiet)
    files = file or []
    texts = read_texts(text, files, per)
    with (
        open_output(output) as stream,
        options.open_page(html, output) as page_file,
        Spinner(enabled=not quiet) as spinner,
    ):
        loaded = model.load(notify, spinner, identify=format == "json" or page_file is not None)
        is_single = not files and per != "line"
        wanted = tokens if tokens is not None else format != "text" or is_single or per != "file"
        keeps = wanted or page_file is not None
        scorer = Scorer(loaded, texts, bos=bos, stride=stride, keep_tokens=keeps)
        made_by = MadeBy.now()
        view = _view(format, stream, loaded.info, made_by, scorer, alone=is_single, tokens=tokens)
        page = ScorePage()
        spinner.say("scoring")
        is_live = is_standard_output(output) and stream.isatty()
        for scored in scorer:
            if is_live:
                spinner.stop()
            else:
                spinner.say(f"scoring: {scorer.total.num_texts:,} texts, {scorer.total.num_tokens:,} tokens")
            view.show(scored)
            if page_file is not None:
                page.show(scored)
        spinner.stop()
        view.finish(scorer.total)
        if page_file is not None:
            page_file.write(page.page(loaded.info, made_by, scorer.total, **scorer.settings))
    notify(score_summary(loaded.info, **scorer.settings))


def _view(
    format: str,
    stream: TextIO,
    model: ModelInfo,
    made_by: MadeBy,
    scorer: Scorer,
    *,
    alone: bool,
    tokens: bool | None,
) -> ScoreView:
    if format == "json":
        return ScoreJson(stream, model, made_by, tokens=tokens is not False, **scorer.settings)
    if format == "jsonl":
        return ScoreJsonLines(stream, tokens=tokens is not False)
    return ScoreText(stream, alone=alone, tokens=tokens is True)
