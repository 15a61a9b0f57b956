"""How much memory is free, what fits in it, and how much was used."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from genlm.errors import ModelError

if TYPE_CHECKING:
    import torch

    from genlm.model.network import Network

# With more rows than this, a step is no cheaper per row.
MOST_ROWS = 256
# The share of the free memory that the rows of one cache may take.
SHARE = 0.25
# On a CPU, where the time of a large step grows with its size, more bytes than this gain little; but at least this many
# rows should share one pass over the weights.
CPU_BYTES, CPU_ROWS = 3 * 2**28, 16
# Assumed if the system does not report how much memory is free.
ASSUMED_BYTES = 2**31
# Linux control groups, version 2: the limits of a container, which psutil does not know.
CGROUP = Path("/sys/fs/cgroup")


def rows_that_fit(network: Network, length: int) -> int:
    """Return how many rows of `length` tokens to decode at once: as many as are worthwhile and fit, at least one."""
    row = network.row_bytes(length)
    worthwhile = max(CPU_ROWS, int(CPU_BYTES / row)) if network.device.type == "cpu" else MOST_ROWS
    return max(1, min(MOST_ROWS, worthwhile, int(SHARE * free_bytes(network.device) / row)))


def check_rows(network: Network, name: str, rows: int, length: int) -> None:
    """Raise ModelError if `rows` sequences of `length` tokens at once do not fit in memory; `name` is their field."""
    needed = rows * network.row_bytes(length)
    check_free(f"{name}={rows}", needed, f"lower {name} or the number of new tokens", network.device)


def check_free(what: str, needed: int, hint: str, device: torch.device | None = None) -> None:
    """Raise ModelError if `what` needs more bytes than are free on the device, or in the machine if it is None."""
    free = free_bytes(device)
    if needed > free:
        raise ModelError(f"{what} needs about {_gigabytes(needed)}, but only {_gigabytes(free)} are free", hint=hint)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count < 10**300 else "far more memory"


def free_bytes(device: torch.device | None = None) -> int:
    """Return how much memory of a device is free, or of the machine if it is None."""
    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    known = [free for free in (_free_in_machine(), _free_in_container()) if free is not None]
    return min(known, default=ASSUMED_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; on a CPU torch raises a RuntimeError, with another message on Windows."""
    messages = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    )


def _free_in_machine() -> int | None:
    try:
        import psutil

        return int(psutil.virtual_memory().available)
    except (ImportError, OSError):
        # For example in a sandbox without /proc.
        return None


def container_limit() -> int | None:
    """Return how many bytes of memory this container may use, or None if there is no limit."""
    return _read_number(CGROUP / "memory.max")


def _free_in_container() -> int | None:
    limit, used = container_limit(), _read_number(CGROUP / "memory.current")
    if limit is None or used is None:
        return None
    # The system drops cached pages of files, such as those of the weights just read, when memory is short.
    statistics = _read_numbers(CGROUP / "memory.stat")
    reclaimable = statistics.get("active_file", 0) + statistics.get("inactive_file", 0)
    return max(0, limit - used + reclaimable)


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _read_numbers(path: Path) -> dict[str, int]:
    """Return the lines `name number` or `name: number kB` of a file of statistics."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


# mallopt's parameters, from malloc.h, and sizes above any tensor of a step; glibc may accept only the second.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_KEPT = (2**30, 2**25)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, so that each step reuses it.

    By default it returns large blocks, such as the logits of many rows, to the system, and getting new ones takes
    longer than the work on them. Only glibc can be told to keep them; elsewhere this does nothing.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and any(mallopt(MMAP_THRESHOLD, size) for size in MOST_KEPT):
        mallopt(TRIM_THRESHOLD, MOST_KEPT[0])


# Larger than any processor cache, in float32 numbers.
READ_SIZE = 2**26


def measure_bandwidth(device: torch.device) -> float:
    """Measure how many bytes a second the device reads: the best of several sums over a large tensor."""
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

    None if the system does not report it.
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
        # On Windows.
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import psutil

            return int(psutil.Process().memory_info().peak_wset)
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
