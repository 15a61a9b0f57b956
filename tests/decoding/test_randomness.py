"""A sample's random numbers are its own, and the same on every machine and in every version."""

from __future__ import annotations

import itertools

from genlm.decoding.randomness import draw_seed, streams


def first_numbers(seed: int, prompt: tuple[int, ...], index: int, count: int = 3) -> list[float]:
    stream = streams(seed, prompt)(index)
    return [stream.random() for _ in range(count)]


def test_the_stream_is_frozen() -> None:
    """A change here changes every sample that anybody has noted a seed for."""
    assert first_numbers(7, (1, 2, 3), 0) == [0.7767347791415198, 0.6656046756516477, 0.3727002900069929]
    assert first_numbers(7, (1, 2, 3), 1) == [0.8600748250657839, 0.6686467199483966, 0.7472428365591293]


def test_a_stream_starts_anew_each_time() -> None:
    assert first_numbers(1, (5,), 4) == first_numbers(1, (5,), 4)


def test_seed_prompt_and_index_each_make_another_stream() -> None:
    seeds, prompts, indices = (0, 1, -1, 11, 2**40), ((), (1,), (11,), (1, 1), (1, 11), (11, 1)), (0, 1, 11, 10**6)
    starts = [tuple(first_numbers(*each)) for each in itertools.product(seeds, prompts, indices)]
    assert len(set(starts)) == len(starts)


def test_a_drawn_seed_is_a_small_whole_number_and_hardly_ever_the_same() -> None:
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**32 for seed in seeds)
