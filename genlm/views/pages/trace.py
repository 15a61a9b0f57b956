"""The page of a generation: every token in the colour of its probability, with its alternatives on hover."""

from __future__ import annotations

from typing import Any

from genlm.decoding.completion import Alternative, Completion, TracedToken
from genlm.records.generation import Generation
from genlm.views.generation import summary
from genlm.views.pages import make_page, provenance
from genlm.views.terminal import visible
from genlm.views.tokens import counted, label
from genlm.views.trace import BOUNDS, BUCKETS, parts

# Browsers get slow with more tokens.
MOST_TOKENS = 20_000


def trace_page(generation: Generation) -> str:
    """Return the page of a traced generation."""
    samples: list[dict[str, Any]] = []
    room = MOST_TOKENS
    for completion in generation.completions:
        tokens = [token_record(*part) for part in parts(completion)]
        if room > 0:
            samples.append({"head": _head(completion), "tokens": tokens[:room]})
        room -= len(tokens)
    data = {
        "about": visible(summary(generation)).replace("  ", " \u00b7 "),
        "prompt": visible(generation.prompt),
        "buckets": BUCKETS,
        "bounds": BOUNDS,
        "samples": samples,
        "cut": f"Shown are the first {MOST_TOKENS:,} of {MOST_TOKENS - room:,} tokens." if room < 0 else None,
    }
    footer = provenance(generation.made_by, generation.model, generation.seed) if generation.made_by else []
    return make_page("Generation", data, "trace", "tokens", footer=footer)


def _head(completion: Completion) -> str:
    count = counted(len(completion.token_ids), "token")
    return f"{completion.index + 1} \u00b7 {count}, {completion.logprob:.3f} nats, {completion.finish_reason}"


def token_record(text: str, token: TracedToken, within: bool) -> dict[str, Any]:
    """Return the token as the page's script reads it."""
    return {
        "text": visible(text),
        "label": label(token.text, token.bytes),
        "within": within,
        "id": token.id,
        "rank": token.rank,
        "probability": token.probability,
        "logprob": token.logprob,
        "entropy": token.entropy,
        "candidates": token.candidates,
        "mass": token.mass,
        "alternatives": [_alternative(each) for each in token.alternatives],
    }


def _alternative(alternative: Alternative) -> list[Any]:
    return [alternative.id, label(alternative.text, alternative.bytes), alternative.probability]
