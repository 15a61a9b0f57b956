"""Requests and sequences: the random streams, and how a sequence grows and ends."""

from __future__ import annotations

import itertools
from typing import Any

from genlm.decoding.completion import Completion, Piece
from genlm.decoding.request import Request, Sequence, Status, draw_seed, generate_one, random_streams
from genlm.decoding.strategy import Strategy


def first_numbers(seed: int, prompt: tuple[int, ...], index: int, count: int = 3) -> list[float]:
    stream = random_streams(seed, prompt)(index)
    return [stream.random() for _ in range(count)]


def test_the_random_stream_never_changes() -> None:
    """A change here changes every sample for which anybody has noted a seed."""
    assert first_numbers(7, (1, 2, 3), 0) == [0.7767347791415198, 0.6656046756516477, 0.3727002900069929]
    assert first_numbers(7, (1, 2, 3), 1) == [0.8600748250657839, 0.6686467199483966, 0.7472428365591293]


def test_a_stream_starts_over_each_time() -> None:
    assert first_numbers(1, (5,), 4) == first_numbers(1, (5,), 4)


def test_seed_prompt_and_index_each_change_the_stream() -> None:
    seeds, prompts, indices = (0, 1, -1, 11, 2**40), ((), (1,), (11,), (1, 1), (1, 11), (11, 1)), (0, 1, 11, 10**6)
    starts = [tuple(first_numbers(*each)) for each in itertools.product(seeds, prompts, indices)]
    assert len(set(starts)) == len(starts)


def test_drawn_seeds_are_small_and_differ() -> None:
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**32 for seed in seeds)


def request(**changes: Any) -> Request:
    settings: dict[str, Any] = {
        "prompt_ids": (1, 2),
        "strategy": Strategy.parse("sample"),
        "max_new_tokens": 3,
        "count": 2,
        "seed": 7,
        "eos_ids": frozenset([0]),
        "stop": (),
        "decode": lambda ids: "".join(chr(ord("a") + id) for id in ids),
    }
    return Request(**(settings | changes))


def test_a_new_sequence_waits_with_the_prompt() -> None:
    sequence = Sequence(request(), 1)
    assert sequence.status is Status.WAITING
    assert (sequence.ids, sequence.num_new) == ([1, 2], 0)
    assert [sequence.random.random() for _ in range(3)] == first_numbers(7, (1, 2), 1)


def test_a_sequence_ends_at_its_length() -> None:
    sequence = Sequence(request(), 0)
    assert [sequence.append(token) for token in (3, 4, 5)] == [("d", None), ("e", None), ("f", "length")]
    assert sequence.completion("length") == Completion(0, "def", (3, 4, 5), "length", 0.0)


def test_an_end_token_has_no_text() -> None:
    sequence = Sequence(request(), 0)
    assert [sequence.append(token) for token in (3, 0)] == [("d", None), ("", "eos")]
    assert sequence.completion("eos").token_ids == (3, 0)


def test_a_stop_text_is_cut_off() -> None:
    sequence = Sequence(request(stop=("ef",)), 0)
    assert [sequence.append(token) for token in (3, 4, 5)] == [("d", None), ("", None), ("", "stop")]
    assert sequence.completion("stop").text == "d"


def test_a_search_generates_one_sequence() -> None:
    histories = []

    def choose(ids: list[int]) -> tuple[int, float]:
        histories.append(list(ids))
        return len(ids) + 1, -0.5

    events = list(generate_one(request(), choose))
    assert histories == [[1, 2], [1, 2, 3], [1, 2, 3, 4]]
    assert events == [Piece(0, "d"), Piece(0, "e"), Piece(0, "f"), Completion(0, "def", (3, 4, 5), "length", -1.5)]
