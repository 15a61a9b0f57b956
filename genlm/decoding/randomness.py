"""The random numbers of sampling: a stream to each sequence, one uniform number to each token.

A sample thus depends on its own seed, prompt and index alone, not on how many samples are drawn beside it. The
generator is Python's Mersenne Twister seeded by SHA-512 of a text, which gives the same numbers on every machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence


def streams(seed: int, prompt_ids: Sequence[int]) -> Callable[[int], random.Random]:
    """The streams of a prompt's samples: call with a sample's index for its own, from the start."""
    prompt = hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()
    return lambda index: random.Random(f"{seed}/{index}/{prompt}")


def draw_seed() -> int:
    """A seed for a run that was given none."""
    return random.SystemRandom().randrange(2**32)
