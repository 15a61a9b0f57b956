"""The model of the benchmarks, which has GPT-2's shape and random weights, and a description of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PROMPT = [7454, 2402, 257, 640, 612, 373, 257, 1310]
BY_ROWS = "CTranslate2 int8, by rows"


def machine(threads: int) -> str:
    """Describe the processor, the threads and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    names = ("torch", "transformers", "ctranslate2", "genlm")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    return f"{processor}, {threads} threads; Python {platform.python_version()}, {versions}\n"


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    # Only Linux can restrict a process to some of the machine's CPUs.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_ctranslate2() -> bool:
    """Return whether CTranslate2 is installed."""
    return find_spec("ctranslate2") is not None


def text_of(ids: Iterable[int]) -> str:
    """Return the text that the model's tokenizer encodes as these ids."""
    return " ".join(f"t{token}" for token in ids)


def make_model(folder: Path) -> None:
    """Write a model of GPT-2's shape with random weights, and a tokenizer, which converters require."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    vocabulary = {f"t{token}": token for token in range(50256)} | {"<|endoftext|>": 50256}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="t0", eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    ).save_pretrained(folder)


def convert(folder: Path, target: Path, quantization: str) -> None:
    """Convert the model to CTranslate2's format."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(target), quantization=quantization)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
