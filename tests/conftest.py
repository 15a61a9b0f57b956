"""Small models, made here, so that the tests need no network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples every time, and no limit on a slow machine.
settings.register_profile("genlm", derandomize=True, database=None, deadline=None)
settings.load_profile("genlm")

# Tiny models run faster on one thread, the more so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that a script runs in the background is born deaf to Ctrl-C, and so would be all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test reaches out, and none sees the user's own cache or settings.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = os.devnull
for name in ("GENLM_MODEL", "GENLM_DEBUG", "HF_ENDPOINT", "HF_TOKEN"):
    os.environ.pop(name, None)

TEXT = (
    "Once upon a time there was a little fox who lived in the wood. "
    "The king had three sons, and the youngest was called Hans. "
    "“Who goes there?” said the wolf — naïve, as café 狐 and 🦊 are. "
) * 4

# Variations of GPT-2 that load and run right, each by what is odd about it.
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
    """A tiny GPT-2 with random weights in Hugging Face format; `scale` makes its choices less even."""
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
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(scale if "wte" not in name else 4.0)
            elif not name.endswith("weight"):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny GPT-2 with random weights."""
    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a variant by its name in VARIANTS, made once."""
    root = tmp_path_factory.mktemp("variants")

    def make(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else save_gpt2(folder, **VARIANTS[name])

    return make


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    import shutil

    return Path(shutil.copytree(tiny, tmp_path / "copied"))


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None takes one out."""
    contents = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in contents.items() if value is not None}))


def genlm(
    *arguments: str,
    stdin: str | bytes | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own; without `stdin` there is nothing to read."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [sys.executable, "-m", "genlm", *arguments],
        input=data,
        stdin=subprocess.DEVNULL if data is None else None,
        capture_output=True,
        env={**os.environ, "COLUMNS": "80", **(env or {})},
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
