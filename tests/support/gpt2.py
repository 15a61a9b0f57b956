"""Tiny GPT-2 models with random weights, so the tests need no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = (
    "Once upon a time there was a little fox who lived in the wood. "
    "The king had three sons, and the youngest was called Hans. "
    "“Who goes there?” said the wolf — naïve, as café 狐 and 🦊 are. "
) * 4

# Changes of the config that every part of genlm must support, by name.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "relu": {"activation_function": "relu"},
    "exact-gelu": {"activation_function": "gelu"},
    "untied": {"tie_word_embeddings": False},
    "unscaled": {"scale_attn_weights": False},
    "inverse-layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True},
    "wide-inner": {"n_inner": 100},
    "context-11": {"n_positions": 11},
    "context-128": {"n_positions": 128},
    "no-end": {"eos_token_id": None, "bos_token_id": None},
    "one-head": {"n_head": 1},
}


def byte_tokenizer(vocab_size: int = 300) -> Any:
    """A byte-level BPE tokenizer with an end-of-text token, trained on a few sentences."""
    from genlm.tasks.train.tokenizers import train_bpe

    return train_bpe([TEXT], vocab_size)


def save_gpt2(folder: Path, *, seed: int = 0, scale: float = 8.0, **changes: Any) -> Path:
    """Save a tiny GPT-2 with random weights. A larger `scale` makes its distributions less even."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = byte_tokenizer()
    end = tokenizer.token_to_id("<|endoftext|>")
    settings: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "eos_token_id": end,
        "bos_token_id": end,
    }
    model = GPT2LMHeadModel(GPT2Config(**(settings | changes))).eval()
    # transformers draws weights in an order that differs between releases. With these seeds, texts neither end at once
    # nor run to the length limit every time.
    generator = torch.Generator().manual_seed(seed + 10)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.02 * (scale if "wte" not in name else 4.0), generator=generator)
            elif not name.endswith("weight"):
                parameter.normal_(std=0.1, generator=generator)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes an entry."""
    contents = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in contents.items() if value is not None}))
