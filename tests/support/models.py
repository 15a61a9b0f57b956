"""Tiny models other than GPT-2, and odd ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from genlm.model.load import Model, load_model
from genlm.model.source import find_model
from support.gpt2 import byte_tokenizer, save_gpt2

END = "<|endoftext|>"


def load(folder: Path, **options: Any) -> Model:
    """Load a folder as the command does."""
    allow_pickle = options.get("allow_pickle", False)
    return load_model(find_model(str(folder), allow_pickle=allow_pickle), **({"device": "cpu"} | options))


def save_tokenizer(folder: Path, tokenizer: Any, **specials: str) -> None:
    """The files that transformers writes for a tokenizer."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(folder)


def save_other(folder: Path, family: str, **changes: Any) -> Path:
    """A tiny causal language model of another family, with random weights that are far from even."""
    import transformers

    tokenizer = byte_tokenizer()
    names = {"llama": "LlamaConfig", "opt": "OPTConfig", "gpt_neox": "GPTNeoXConfig", "mistral": "MistralConfig"}
    settings: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.token_to_id(END),
        "eos_token_id": tokenizer.token_to_id(END),
    }
    if family == "opt":
        settings |= {"ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1}
    else:
        settings |= {"intermediate_size": 64}
    if family == "mistral":
        settings |= {"sliding_window": 4, "num_key_value_heads": 2}
    torch.manual_seed(1)
    config = getattr(transformers, names[family])(**(settings | changes))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6.0)
    model.save_pretrained(folder)
    save_tokenizer(folder, tokenizer, bos_token=END, eos_token=END)
    return folder


def save_three_words(folder: Path, unk_token: str = "fox") -> Path:
    """A GPT-2 whose vocabulary is three whole words, none of them special; other words become `unk_token`."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    save_gpt2(folder, vocab_size=3, bos_token_id=None, eos_token_id=None)
    for path in folder.glob("*token*"):
        path.unlink()
    tokenizer = Tokenizer(models.WordLevel({"fox": 0, "wolf": 1, "king": 2}, unk_token=unk_token))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    save_tokenizer(folder, tokenizer)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of a folder's `config.json`."""
    contents: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return contents
