"""The random numbers of sampling: a stream to each sequence, one uniform number to each token.

A sample thus depends on its own seed, prompt and index alone, not on how many samples are drawn beside it. The
generator is Python's Mersenne Twister seeded by SHA-512 of a text, which gives the same numbers on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def stream(seed: int, prompt_ids: Sequence[int], index: int) -> random.Random:
    """The stream of sample `index` of a prompt."""
    return random.Random(f"{seed}/{index}/{','.join(map(str, prompt_ids))}")


def draw_seed() -> int:
    """A seed for a run that was given none."""
    return random.SystemRandom().randrange(2**32)
