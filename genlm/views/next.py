"""The next token: a table of tokens, a comparison of continuations or a tree; each also as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from genlm.decoding.strategy import Strategy
from genlm.records.inspection import Branch, Candidate, Comparison, Continuation, Filtered, NextToken, Tree
from genlm.records.serialize import finite, split_bytes
from genlm.views.terminal import make_console
from genlm.views.tokens import Bar, counted, label, percent, shortened

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree as RichTree

TOKEN_WIDTH = 20
PROMPT_WIDTH = 40


def show_next(stream: TextIO, found: NextToken | Comparison | Tree) -> None:
    """Write a table with bars, or a tree, and notes on it."""
    console = make_console(stream)
    if isinstance(found, Comparison):
        _show_comparison(console, found)
    elif isinstance(found, Tree):
        _show_tree(console, found)
    else:
        _show_distribution(console, found)


def _show_distribution(console: Console, found: NextToken) -> None:
    from rich.text import Text

    table = _table("rank", "token", "id", "probability", *(["after"] if found.filtered else []), "log-prob", "")
    highest = max(_shown_probability(candidate) for candidate in found.candidates)
    for candidate in found.candidates:
        is_cut = candidate.filtered == 0
        after = [] if candidate.filtered is None else ["cut" if is_cut else percent(candidate.filtered)]
        table.add_row(
            str(candidate.rank),
            Text(_token(candidate)),
            str(candidate.id),
            percent(candidate.probability),
            *after,
            f"{candidate.logprob:.3f}",
            Bar(_shown_probability(candidate) / highest if highest else 0.0, "cyan"),
            style="dim" if is_cut else None,
        )
    console.print(table)
    console.print()
    shown = sum(candidate.probability for candidate in found.candidates)
    lines = [
        f"{_entropy(found.entropy)} (of {found.vocab_size:,} tokens)",
        f"the {len(found.candidates):,} shown hold {percent(shown)} of the probability",
        *(_findings(found.filtered) if found.filtered is not None else []),
    ]
    for line in lines:
        console.print(line, soft_wrap=False)


def _shown_probability(candidate: Candidate) -> float:
    return candidate.probability if candidate.filtered is None else candidate.filtered


def _token(candidate: Candidate) -> str:
    return shortened(label(candidate.text, candidate.bytes), TOKEN_WIDTH)


def _findings(filtered: Filtered) -> list[str]:
    strategy = filtered.strategy
    lines = [
        "",
        f"{strategy.as_given} keeps {counted(filtered.kept, 'token')} "
        f"with {percent(1 - filtered.cut_probability)} of the probability",
        _entropy(filtered.entropy),
    ]
    if filtered.cut:
        names = ", ".join(f"{_token(candidate)} (rank {candidate.rank:,})" for candidate in filtered.likeliest_cut)
        lines.append(
            f"it rules out {filtered.cut:,} with {percent(filtered.cut_probability)}, most likely first: {names}"
        )
    return [*lines, *_notes(strategy)]


def _notes(strategy: Strategy) -> list[str]:
    """Explain how the strategy chooses if it does not draw from the distribution that is shown."""
    if strategy.declaration.also_depends_on:
        return [
            f"{strategy.kind} does not choose by these probabilities alone: "
            f"its choice also depends on {strategy.declaration.also_depends_on}"
        ]
    return [] if strategy.samples else [f"{strategy.kind} always takes the most likely token"]


def _entropy(nats: float) -> str:
    return f"entropy {nats:.3f} nats, perplexity {math.exp(nats):,.1f}"


def _show_comparison(console: Console, found: Comparison) -> None:
    from rich.text import Text

    has_strategy = found.strategy is not None
    table = _table("rank", "continuation", "tokens", "log-prob", *(["after"] if has_strategy else []), "share", "")
    for continuation in found.continuations:
        after = [] if continuation.filtered is None else [f"{continuation.filtered:.3f}"]
        table.add_row(
            str(continuation.rank),
            Text(shortened(label(continuation.text), 30)),
            str(len(continuation.tokens)),
            f"{continuation.logprob:.3f}",
            *after,
            percent(continuation.share),
            Bar(continuation.share, "cyan"),
        )
    console.print(table)
    console.print()
    for continuation in found.continuations:
        if len(continuation.tokens) > 1:
            parts = "  ".join(f"{label(token.text)} {token.logprob:.3f}" for token in continuation.tokens)
            console.print(Text(f"{continuation.rank}  {parts}", style="dim"), soft_wrap=False)
    if found.strategy is not None:
        console.print(f"after: under {found.strategy.as_given}, which never chooses a continuation at -inf")
        for note in _notes(found.strategy):
            console.print(note, soft_wrap=False)


def _show_tree(console: Console, found: Tree) -> None:
    from rich.text import Text
    from rich.tree import Tree as RichTree

    prompt = label(found.prompt)
    prompt = prompt if len(prompt) <= PROMPT_WIDTH else "…" + prompt[-PROMPT_WIDTH:]
    root = RichTree(Text(prompt, style="bold"), guide_style="dim")
    _hang(root, found.branches)
    console.print(root)
    console.print()
    under = f" under {found.strategy.as_given}" if found.strategy else ""
    console.print(
        f"{_count(found.branches):,} tokens: the most likely continuations, {counted(found.steps, 'token')} long. "
        f"Beside each token: its probability{under}, and that of the whole path.",
        soft_wrap=False,
    )
    for note in _notes(found.strategy) if found.strategy else []:
        console.print(note, soft_wrap=False)


def _hang(tree: RichTree, branches: list[Branch]) -> None:
    from rich.text import Text

    for branch in branches:
        line = Text.assemble(
            (label(branch.text), "dim" if branch.ends else ""),
            "  ",
            (percent(math.exp(branch.logprob)), "cyan"),
            "  ",
            (percent(math.exp(branch.path_logprob)), "dim"),
            (" end" if branch.ends else "", "dim"),
        )
        _hang(tree.add(line), branch.children)


def _count(branches: list[Branch]) -> int:
    return sum(1 + _count(branch.children) for branch in branches)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="dim")
    for name in columns:
        is_text = name in ("token", "continuation", "")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True, ratio=None if name else 1)
    return table


def next_record(found: NextToken | Comparison | Tree) -> dict[str, Any]:
    """Return the JSON object of `genlm next --format json`."""
    filtered = found.filtered if isinstance(found, NextToken) else None
    strategy = filtered.strategy if filtered else None if isinstance(found, NextToken) else found.strategy
    return {
        "model": asdict(found.model),
        "prompt": found.prompt,
        "prompt_token_ids": list(found.prompt_token_ids),
        **({"vocab_size": found.vocab_size} if isinstance(found, NextToken) else {}),
        "entropy": found.entropy,
        "effective_choices": math.exp(found.entropy),
        **({"steps": found.steps} if isinstance(found, Tree) else {}),
        "candidates": _candidate_records(found),
        **({"strategy": strategy.to_json()} if strategy else {}),
        **({"filtered": _filtered_record(filtered)} if filtered else {}),
        "made_by": asdict(found.made_by),
    }


def _candidate_records(found: NextToken | Comparison | Tree) -> list[dict[str, Any]]:
    if isinstance(found, Comparison):
        return [_continuation_record(continuation) for continuation in found.continuations]
    if isinstance(found, Tree):
        return _branch_records(found.branches)
    return [_candidate_record(candidate) for candidate in found.candidates]


def _filtered_record(filtered: Filtered) -> dict[str, Any]:
    return {
        "entropy": filtered.entropy,
        "effective_choices": math.exp(filtered.entropy),
        "kept": filtered.kept,
        "cut": filtered.cut,
        "cut_probability": filtered.cut_probability,
        "likeliest_cut": [_candidate_record(candidate) for candidate in filtered.likeliest_cut],
    }


def _continuation_record(continuation: Continuation) -> dict[str, Any]:
    return {
        "rank": continuation.rank,
        "id": continuation.tokens[0].id if len(continuation.tokens) == 1 else None,
        "text": continuation.text,
        "probability": math.exp(continuation.logprob),
        "logprob": continuation.logprob,
        "share": continuation.share,
        **_filtered_logprob(continuation.filtered),
        "tokens": [
            {"id": token.id, "text": token.text, "logprob": token.logprob, **_filtered_logprob(token.filtered)}
            for token in continuation.tokens
        ],
    }


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    after = {} if candidate.filtered is None else {"filtered_probability": candidate.filtered}
    return {
        "rank": candidate.rank,
        "id": candidate.id,
        "text": candidate.text,
        "probability": candidate.probability,
        "logprob": candidate.logprob,
        **after,
        **split_bytes(candidate.bytes),
    }


def _filtered_logprob(logprob: float | None) -> dict[str, float | None]:
    """Return the value as JSON has it: None for minus infinity, a token that the strategy rules out."""
    return {} if logprob is None else {"filtered_logprob": finite(logprob)}


def _branch_records(branches: list[Branch]) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "id": branch.id,
            "text": branch.text,
            "probability": math.exp(branch.logprob),
            "logprob": branch.logprob,
            "path_logprob": branch.path_logprob,
            "ends": branch.ends,
            "children": _branch_records(branch.children),
        }
        for rank, branch in enumerate(branches, 1)
    ]
