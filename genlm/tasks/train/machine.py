"""What the machine at hand is good at."""

from __future__ import annotations

import os
import shutil
from typing import Literal

from genlm.errors import UsageError
from genlm.tasks.train.settings import Precision

# Below this width products are too small to gain.
WORTH_WIDTH = 256


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: str, width: int) -> Precision:
    """What products are computed in: bfloat16 where the machine has instructions for it and the model is wide."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if width >= WORTH_WIDTH and _is_fast_at_bfloat16(device) else "float32"


def check_compiler(device: str) -> None:
    """Raise UsageError where torch.compile has nothing to compile with."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device == "cpu" and not any(map(shutil.which, filter(None, compilers))):
        raise UsageError("--compile needs a C++ compiler, and none is found", hint="CXX names one")


def _is_fast_at_bfloat16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
