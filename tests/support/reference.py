"""Stock transformers with every field pinned, the reference for genlm's own loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

# No tiny model has this token, so padding is never mistaken for one.
PADDING = 10**6


@cache
def stock(folder: Path) -> Any:
    """Return the model of a folder as transformers loads it."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config = GenerationConfig()
    return model


def stock_generate(folder: Path, prompt_ids: Sequence[int], eos_ids: Iterable[int], **settings: Any) -> Any:
    """Return the result of `generate` with every relevant field set."""
    ids = torch.tensor([list(prompt_ids)])
    neutral = {"do_sample": False, "num_beams": 1, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    neutral |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_return_sequences": 1}
    if settings.get("do_sample") is not True:
        for name in ("top_k", "top_p", "temperature"):
            del neutral[name]
    return stock(folder).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=PADDING,
        eos_token_id=sorted(eos_ids) or None,
        **(neutral | settings),
    )


def stock_tokens(
    folder: Path, prompt_ids: Sequence[int], eos_ids: Iterable[int], **settings: Any
) -> list[tuple[int, ...]]:
    """Return the new tokens of every sequence that `generate` returns, including the end token."""
    rows = stock_generate(folder, prompt_ids, eos_ids, **settings).tolist()
    return [tuple(token for token in row[len(prompt_ids) :] if token != PADDING) for row in rows]


def stock_logprob(folder: Path, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> float:
    """Return the log-probability of tokens after a prompt, by one unfiltered forward pass, in nats."""
    with torch.inference_mode():
        logits = stock(folder)(torch.tensor([[*prompt_ids, *token_ids]])).logits[0]
    logprobs = logits[len(prompt_ids) - 1 : -1].double().log_softmax(-1)
    return float(logprobs.gather(-1, torch.tensor(token_ids)[:, None]).sum())


def next_distribution(folder: Path, ids: Sequence[int]) -> torch.Tensor:
    """Return the distribution of the token after `ids`."""
    with torch.inference_mode():
        logits: torch.Tensor = stock(folder)(torch.tensor([list(ids)])).logits[0, -1]
    return logits.double().softmax(-1)
