"""The events of a request, from its prefilled prompt to its completions, and how token ids become text.

Text is released in whole characters only and cut exactly before a stop text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Decode: TypeAlias = Callable[[list[int]], str]
FinishReason: TypeAlias = Literal["length", "eos", "stop"]
# In a class with a field of that name, `bytes` is the field, and its annotation cannot be evaluated.
Bytes: TypeAlias = bytes


@dataclass(frozen=True)
class Prefilled:
    """The prompt is prefilled; decode steps follow."""


@dataclass(frozen=True)
class Piece:
    """Text that was added to completion `index`."""

    index: int
    text: str


@dataclass(frozen=True)
class Alternative:
    """A likely token and its probability. For `bytes` see TracedToken."""

    id: int
    text: str
    probability: float
    bytes: Bytes | None = None


@dataclass(frozen=True)
class TracedToken:
    """A generated token under the model's own distribution, before any logits processor.

    `rank` 1 is the most likely token; `logprob` and `entropy` are in nats. The strategy's logits processors
    left `candidates` tokens, with a fraction `mass` of the probability. `alternatives` are the most likely tokens,
    whether or not this one is among them. `bytes` is set if the token holds only part of a character.
    """

    text: str
    id: int
    logprob: float
    probability: float
    rank: int
    entropy: float
    candidates: int
    mass: float
    alternatives: tuple[Alternative, ...]
    bytes: Bytes | None = None


@dataclass(frozen=True)
class Completion:
    """The generated part of one sequence.

    `token_ids` are all generated tokens, including an end-of-text token (which has no text) and the tokens of a stop
    text (`text` is cut before it). `logprob` is the sum of the model's log-probabilities of these tokens, before any
    logits processor, in nats. `trace` has an entry for each token if a trace was requested.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprob: float
    trace: tuple[TracedToken, ...] | None = None


@dataclass(frozen=True)
class Failed:
    """The request failed with `error`; no more completions follow."""

    error: Exception


Event: TypeAlias = Prefilled | Piece | Completion


# With each new token, at least this many before it are decoded again: enough for a character of four bytes in as many
# tokens, and for tokenizers in which a token's text depends on those before it.
WINDOW = 8
# Decoding returns this for bytes that are not, or not yet, a character.
INCOMPLETE = "\ufffd"
# A character has at most four bytes, so one that three tokens left incomplete never becomes one.
MOST_INCOMPLETE = 3


class TextStream:
    """The text of one completion, token by token.

    `push` returns the text that is certain: never part of a character, never the possible beginning of a stop
    text. `finish` returns the text held back. `text` is everything returned so far.

    `tokenizers.decoders.DecodeStream` is no replacement: it never releases invalid bytes at the end, fails on some
    byte-fallback sequences, and takes quadratic time on long runs of invalid bytes or special tokens.
    """

    def __init__(self, decode: Decode, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decode = decode
        self._ids = list(prompt_ids[-WINDOW:])
        # How many characters of the window's text were handled.
        self._done = len(decode(self._ids))
        # How many tokens were added since the text last ended in a whole character.
        self._waited = 0
        self._stop = tuple(stop)
        # Text that could be the beginning of a stop text.
        self._held = ""

    def fork(self) -> TextStream:
        """Return an independent copy."""
        forked = copy.copy(self)
        forked._ids = list(self._ids)
        return forked

    def push(self, token_id: int) -> str:
        """Add a token and return the text that is now certain. Set `stopped` at a stop text."""
        self._ids.append(token_id)
        window = self._decode(self._ids)
        incomplete = len(window) - len(window.rstrip(INCOMPLETE))
        self._waited = self._waited + 1 if incomplete else 0
        is_invalid = self._waited > MOST_INCOMPLETE
        certain = len(window) - (min(incomplete, MOST_INCOMPLETE) if is_invalid else incomplete)
        new = window[self._done : certain]
        self._done += len(new)
        if len(self._ids) > 2 * WINDOW and (is_invalid or not incomplete):
            self._shorten(window)
        return self._release(new)

    def finish(self) -> str:
        """Return the rest of the text; no token may follow."""
        if self.stopped:
            return ""
        released = self._release(self._decode(self._ids)[self._done :])
        rest, self._held = self._held, ""
        self.text += rest
        return released + rest

    def _shorten(self, window: str) -> None:
        """Drop tokens from the start of the window, as long as the rest decodes to the same text."""
        left = len(window) - self._done
        for start in range(len(self._ids) - WINDOW, WINDOW // 2, -1):
            shorter = self._decode(self._ids[start:])
            if window.endswith(shorter) and len(shorter) >= left:
                self._ids = self._ids[start:]
                self._done = len(shorter) - left
                return

    def _release(self, new: str) -> str:
        """Return the part of the held text and `new` in which no stop text can begin."""
        text = self._held + new
        end = first_stop(text, self._stop)
        self.stopped = end is not None
        if end is None:
            end = len(text) - longest_prefix(text, self._stop)
        self._held = "" if self.stopped else text[end:]
        self.text += text[:end]
        return text[:end]


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return the start of the stop text that is complete first. It does not depend on the token boundaries."""
    found = [(text.index(each) + len(each), text.index(each)) for each in stop if each in text]
    return min(found)[1] if found else None


def longest_prefix(text: str, stop: Sequence[str]) -> int:
    """Return how many characters at the end of `text` could be the beginning of a stop text."""
    longest = max((len(each) - 1 for each in stop), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(each.startswith(text[-size:]) for each in stop):
            return size
    return 0
