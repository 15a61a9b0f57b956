"""How much memory there is, and how many rows fit in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genlm.model.network import Network

# Beyond this many rows a step is no cheaper per row.
MOST_ROWS = 256
# The part of the free memory that one group of rows may take.
SHARE = 0.25
# Where the machine does not tell what is free.
ASSUMED_BYTES = 2**31


def rows_that_fit(network: Network, length: int) -> int:
    """How many rows of `length` tokens to decode at once on this machine, at least one."""
    return max(1, min(MOST_ROWS, int(SHARE * free_bytes() / network.row_bytes(length))))


def free_bytes() -> int:
    """The memory that is free now: the GPU's where torch has one, else the machine's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return ASSUMED_BYTES
