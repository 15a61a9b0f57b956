"""What the machine at hand is good at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from genlm.errors import UsageError
from genlm.model.memory import keep_freed_memory
from genlm.tasks.train.settings import Precision

# Below this width products are too small to gain.
WORTH_WIDTH = 256
# Below this width threads wait for one another longer than a product takes, on a busy machine a hundred times as long.
WORTH_SHARING = 128


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: str, width: int) -> Precision:
    """What products are computed in: bfloat16 where the machine has instructions for it and the model is wide."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if width >= WORTH_WIDTH and _is_fast_at_bfloat16(device) else "float32"


@contextmanager
def suited_to(device: str, width: int) -> Iterator[None]:
    """Let the CPU train a model of this width as fast as it can: in one thread if it is narrow, freed memory kept."""
    import torch

    if device != "cpu":
        yield
        return
    keep_freed_memory()
    threads = torch.get_num_threads()
    if width < WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_compiler(device: str) -> None:
    """Raise UsageError where torch.compile has nothing to compile with."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if device == "cpu" and not any(map(shutil.which, filter(None, compilers))):
        raise UsageError("compiling needs a C++ compiler, and none was found", hint="set CXX to one")


def _is_fast_at_bfloat16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
