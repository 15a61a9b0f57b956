"""A request to continue a prompt, and the sequences that are generated for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from random import Random, SystemRandom
from typing import TYPE_CHECKING, NamedTuple

from genlm.decoding.completion import Completion, Decode, FinishReason, Piece, TextStream, TracedToken
from genlm.decoding.strategy import Strategy
from genlm.model.info import Engine
from genlm.model.pieces import Pieces

if TYPE_CHECKING:
    from torch import Tensor

    from genlm.model.network import SharedCache


@dataclass(frozen=True)
class Request:
    """A prompt to continue `count` times with a strategy.

    Every decode step has at least `least_rows` rows. Matrix products of very few rows can round differently from larger
    ones, so that the first of five samples would differ from a single sample.

    `alone` decodes each sequence by itself, one token per step, so that its bits do not depend on what else runs.
    `speculate` allows prompt lookup, which does not change the text. `pieces` spells tokens in the trace; without it
    nothing is traced. `bad_words_ids` are token sequences that must not be generated.
    """

    prompt_ids: tuple[int, ...]
    strategy: Strategy
    max_new_tokens: int
    count: int
    seed: int
    eos_ids: frozenset[int]
    stop: tuple[str, ...]
    decode: Decode
    least_rows: int = 1
    speculate: bool = True
    alone: bool = False
    pieces: Pieces | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    engine: Engine = "genlm"

    @property
    def max_length(self) -> int:
        """The most tokens that a sequence can have, with the prompt's."""
        return len(self.prompt_ids) + self.max_new_tokens

    @cached_property
    def random_stream(self) -> Callable[[int], Random]:
        """Call with the index of a sequence for its random stream. See `random_streams`."""
        return random_streams(self.seed, self.prompt_ids)


def random_streams(seed: int, prompt_ids: tuple[int, ...]) -> Callable[[int], Random]:
    """Return a function from the index of a sequence to its random stream.

    Each sequence has its own stream, and each token takes one number from it. A sample therefore depends only on
    its seed, prompt and index, not on the samples beside it. The generator is Python's Mersenne Twister seeded with the
    SHA-512 of a text, which gives the same numbers on every machine.
    """
    prompt = hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()
    return lambda index: Random(f"{seed}/{index}/{prompt}")


def draw_seed() -> int:
    """Return a random seed."""
    return SystemRandom().randrange(2**32)


class Status(Enum):
    """The state of a sequence: from WAITING to FINISHED in this order, unless it fails or is cancelled."""

    WAITING = "waiting"  # for its prompt to be prefilled
    PREFILLED = "prefilled"  # and waiting for a slot
    RUNNING = "running"  # in a slot
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PrefilledPrompt(NamedTuple):
    """A prompt's row in the cache that it was prefilled into, and the logits of the next token, (1, vocab)."""

    cache: SharedCache
    row: int
    logits: Tensor


class Sequence:
    """One completion of a request while it is generated.

    `request_id` is the scheduler's name for the request. Sequences are equal only if they are the same object.
    """

    def __init__(self, request: Request, index: int, request_id: int = 0) -> None:
        self.request = request
        self.index = index
        self.request_id = request_id
        self.status = Status.WAITING
        self.prompt: PrefilledPrompt | None = None
        self.logprob = 0.0
        self.trace: list[TracedToken] = []

    # Most sequences wait for a while, so these are created on first use.

    @cached_property
    def ids(self) -> list[int]:
        """The token ids so far, with the prompt's."""
        return list(self.request.prompt_ids)

    @cached_property
    def text(self) -> TextStream:
        """The text of the new tokens."""
        return TextStream(self.request.decode, self.request.prompt_ids, self.request.stop)

    @cached_property
    def random(self) -> Random:
        """The source of the numbers that its tokens are drawn with."""
        return self.request.random_stream(self.index)

    @property
    def num_new(self) -> int:
        """How many tokens were generated."""
        return len(self.ids) - len(self.request.prompt_ids)

    def append(self, token: int) -> tuple[str, FinishReason | None]:
        """Add a token. Return the text that is now certain and, if the sequence ends here, the reason."""
        self.ids.append(token)
        is_last = self.num_new == self.request.max_new_tokens
        reason: FinishReason | None = "eos" if token in self.request.eos_ids else "length" if is_last else None
        text = "" if reason == "eos" else self.text.push(token)
        if reason is not None:
            text += self.text.finish()
        return text, "stop" if self.text.stopped else reason

    def end(self, status: Status) -> None:
        """Set the final status and release the prefilled prompt."""
        self.status = status
        self.prompt = None

    def completion(self, reason: FinishReason) -> Completion:
        """Return the result of a sequence that has ended."""
        ids = tuple(self.ids[len(self.request.prompt_ids) :])
        # None if no step was traced: `decode` then traces the whole completion in one pass.
        trace = tuple(self.trace) or None
        return Completion(self.index, self.text.text, ids, reason, self.logprob, trace)


def generate_one(request: Request, choose: Callable[[list[int]], tuple[int, float]]) -> Iterator[Piece | Completion]:
    """Yield the pieces and the completion of a search that finds one sequence.

    `choose` maps all token ids so far to the next token and its log-probability under the model.
    """
    sequence = Sequence(request, 0)
    reason = None
    while reason is None:
        token, logprob = choose(sequence.ids)
        sequence.logprob += logprob
        text, reason = sequence.append(token)
        if text:
            yield Piece(sequence.index, text)
    yield sequence.completion(reason)
