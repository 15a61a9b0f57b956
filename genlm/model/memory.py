"""How much memory there is, and how many rows fit in it."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from genlm.model.network import Network

# Beyond this many rows a step is no cheaper per row.
MOST_ROWS = 256
# The part of the free memory that one group of rows may take.
SHARE = 0.25
# On a CPU, whose steps of many rows take as long as their numbers are many, more than this gains little; but so many
# rows share the reading of the weights.
CPU_BYTES, CPU_ROWS = 3 * 2**28, 16
# If the machine does not tell how much memory is free.
ASSUMED_BYTES = 2**31
# Linux control groups, version 2: the limits of a container, which psutil does not know.
CGROUP = Path("/sys/fs/cgroup")


def rows_that_fit(network: Network, length: int) -> int:
    """How many rows of `length` tokens to decode at once on this machine: as many as pay and fit, at least one."""
    row = network.row_bytes(length)
    pay = max(CPU_ROWS, int(CPU_BYTES / row)) if network.device.type == "cpu" else MOST_ROWS
    return max(1, min(MOST_ROWS, pay, int(SHARE * free_bytes(network.device) / row)))


def free_bytes(device: torch.device) -> int:
    """The memory of a device that is free now."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    known = [free for free in (_free_in_machine(), _free_in_container()) if free is not None]
    return min(known, default=ASSUMED_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. On the CPU torch raises a plain RuntimeError for that, worded differently on Windows."""
    torch_says = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in torch_says)
    )


def _free_in_machine() -> int | None:
    try:
        import psutil

        return int(psutil.virtual_memory().available)
    except (ImportError, OSError):
        # As in a sandbox without /proc.
        return None


def _free_in_container() -> int | None:
    try:
        limit = int((CGROUP / "memory.max").read_text("ascii"))
        used = int((CGROUP / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return None
    # The system drops cached pages of files, such as those of the weights just read, when memory is short.
    statistics = _read_numbers(CGROUP / "memory.stat")
    reclaimable = statistics.get("active_file", 0) + statistics.get("inactive_file", 0)
    return max(0, limit - used + reclaimable)


def _read_numbers(path: Path) -> dict[str, int]:
    """Return the lines `name number` or `name: number kB` of a file of statistics."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


# The parameters of mallopt, as in malloc.h, and sizes that no tensor of a step goes beyond; glibc may take the second.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_KEPT = (2**30, 2**25)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for each step to take it again.

    It gives large pieces, as the logits of many rows, back to the system, and new ones cost more than what is done
    with them. Only glibc can be told; elsewhere nothing happens.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and any(mallopt(MMAP_THRESHOLD, size) for size in MOST_KEPT):
        mallopt(TRIM_THRESHOLD, MOST_KEPT[0])


# Large enough to lie outside every cache, in float32 numbers.
READ_SIZE = 2**26


def measure_bandwidth(device: torch.device) -> float:
    """How many bytes a second the device is seen to read: the best of some sums over a large tensor."""
    import torch

    tensor = torch.ones(READ_SIZE, device=device)
    best = math.inf
    for _ in range(8):
        started = time.perf_counter()
        tensor.sum().item()
        best = min(best, time.perf_counter() - started)
    return tensor.nbytes / best


def reset_peak(device: torch.device) -> None:
    """Measure the peak from now on. Only Linux and GPUs can; elsewhere it counts from the start of the process."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory in use since `reset_peak`: that of the GPU if it runs the model, else of the process.

    None if the system does not tell.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    kibibytes = _read_numbers(Path("/proc/self/status")).get("VmHWM")
    if kibibytes is not None:
        return kibibytes * 1024
    try:
        import resource
    except ImportError:
        return _windows_peak()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _windows_peak() -> int | None:
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return None
